//go:build movedclock

package backend

import (
	"os"
	"strconv"
	"strings"
	"time"
)

// clockFile names the variable that names the file in which there is by how many seconds
// the clock is ahead.
const clockFile = "ROTATION_CLOCK_FILE"

// movedClock is the real clock, and ahead of it by what a file says at that moment. Tests of
// a whole Vault move it: what takes days passes in seconds, and goes on across the end of
// a process.
type movedClock struct {
	realClock
	file string
}

func newClock() Clock {
	return movedClock{realClock: newRealClock(), file: os.Getenv(clockFile)}
}

func (c movedClock) ahead() time.Duration {
	text, err := os.ReadFile(c.file)
	if err != nil {
		return 0
	}
	seconds, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		panic(clockFile + ": " + err.Error())
	}
	return time.Duration(seconds) * time.Second
}

func (c movedClock) Now() time.Time      { return c.realClock.Now().Add(c.ahead()).Round(0) }
func (c movedClock) Mono() time.Duration { return c.realClock.Mono() + c.ahead() }

func (c movedClock) After(d time.Duration) <-chan time.Time {
	const look = 20 * time.Millisecond
	due, fired := c.Mono()+d, make(chan time.Time, 1)
	go func() {
		for c.Mono() < due {
			time.Sleep(min(look, max(due-c.Mono(), time.Millisecond)))
		}
		fired <- c.Now()
	}()
	return fired
}
