package pgtest

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tick is the unit in which Linux tells of processes' times, on all platforms.
const tick = 10 * time.Millisecond

// Places in /proc/PID/stat, after the name of the command.
const (
	statParent   = 1
	statUser     = 11
	statChildren = 13 // of those that ended, user's and system's
	statEnd      = 15
)

// CPU is the processors' time that the server took since it started, with all its sessions,
// those that ended too. It is 0 where there is no /proc.
func (s *Server) CPU() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		return 0
	}
	own := s.proc.cmd.Process.Pid
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	var ticks int
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			continue // it ended
		}
		fields := strings.Fields(string(content[strings.LastIndexByte(string(content), ')')+1:]))
		if len(fields) < statEnd {
			continue
		}
		to := statChildren
		if pid := filepath.Base(filepath.Dir(file)); pid == strconv.Itoa(own) {
			to = statEnd
		} else if fields[statParent] != strconv.Itoa(own) {
			continue
		}
		for _, field := range fields[statUser:to] {
			n, _ := strconv.Atoi(field)
			ticks += n
		}
	}
	return time.Duration(ticks) * tick
}
