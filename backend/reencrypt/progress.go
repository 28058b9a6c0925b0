package reencrypt

import "time"

// Rate is how many rows are passed in a second of work; 0: unknown.
func (p Progress) Rate() float64 {
	if p.Spent <= 0 {
		return 0
	}
	return float64(p.Passed) / p.Spent.Seconds()
}

// Left is how much longer the pass has to work, going by what it did so far; 0: unknown, or
// nothing is left.
func (p Progress) Left() time.Duration {
	rate := p.Rate()
	if p.Ended || rate == 0 || p.Total <= p.Passed {
		return 0
	}
	return time.Duration(float64(p.Total-p.Passed) / rate * float64(time.Second))
}
