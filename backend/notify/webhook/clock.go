package webhook

import "time"

// now is the injected clock, else the real one: a receiver compares it with its own.
func (k *Kind) now() time.Time {
	if k.Now != nil {
		return k.Now()
	}
	return time.Now()
}
