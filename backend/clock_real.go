//go:build !movedclock

package backend

func newClock() Clock { return newRealClock() }
