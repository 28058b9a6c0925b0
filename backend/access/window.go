package access

// windowSeconds is the sliding minute over which reads are counted.
const windowSeconds = 60

// slack is by how much a clock may go back, in seconds, without the window beginning anew:
// requests that run at once need not arrive in order.
const slack = 2

// window counts what happened in the last minute, to the second.
type window struct {
	head    int64 // the latest second
	sum     int
	seconds [windowSeconds]uint32
}

// add counts one more, and returns how many there were within the minute.
func (w *window) add(second int64) int {
	w.move(second)
	w.seconds[uint64(w.head)%windowSeconds]++
	w.sum++
	return w.sum
}

// count is how many there were within the minute that ends now.
func (w *window) count(second int64) int {
	w.move(second)
	return w.sum
}

// move forgets what is older than a minute. Where the clock went back, nobody knows what
// was within the last minute, and the window begins anew.
func (w *window) move(second int64) {
	switch ahead := second - w.head; {
	case ahead <= 0 && ahead >= -slack:
		return
	case ahead < 0, ahead >= windowSeconds:
		*w = window{head: second}
		return
	}
	for w.head < second {
		w.head++
		old := &w.seconds[uint64(w.head)%windowSeconds]
		w.sum -= int(*old)
		*old = 0
	}
}
