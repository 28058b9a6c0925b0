package pgtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"strconv"
)

// StartStandby makes a hot standby of a cluster that was started with
// Options.Replication, and starts it. It has the cluster's certificates, users and
// passwords, and a port of its own. The primary is halted for the moment in which its
// files are copied: every session on it ends. The caller ends the standby with Stop.
func (s *Server) StartStandby(ctx context.Context) (*Server, error) {
	if !s.options.Replication {
		return nil, errors.New("the cluster was not started with Options.Replication")
	}
	standby := &Server{binDir: s.binDir, account: s.account, authority: s.authority, superuserPassword: s.superuserPassword, options: s.options}
	standby.options.Settings = maps.Clone(s.options.Settings)
	if standby.options.Settings == nil {
		standby.options.Settings = map[string]string{}
	}
	// With TLS it would look for certificates in the home directory of whoever runs the tests.
	standby.options.Settings["primary_conninfo"] = fmt.Sprintf("host=%s port=%d user=%s password=%s sslmode=disable application_name=pgtest_standby",
		s.Host(), s.port, Superuser, s.superuserPassword)
	if err := standby.copyOf(ctx, s); err != nil {
		return nil, errors.Join(err, standby.remove())
	}
	err := onFreePort(ctx, func(port int) error {
		standby.port = port
		if err := standby.writeSettings(); err != nil {
			return err
		}
		return standby.Resume(ctx)
	})
	if err != nil {
		return nil, errors.Join(err, standby.Stop())
	}
	return standby, nil
}

// copyOf takes over the primary's files. Not all distributions of the server have
// pg_basebackup.
func (s *Server) copyOf(ctx context.Context, primary *Server) error {
	if err := s.makeDir(); err != nil {
		return err
	}
	if err := s.writeCertificates(); err != nil {
		return err
	}
	primary.Halt()
	cmd := exec.CommandContext(ctx, "cp", "-pR", primary.dataDir, s.dataDir)
	cmd.Dir = s.dir
	s.account.apply(cmd)
	p := start(cmd)
	err := p.startErr
	if err == nil {
		<-p.exited
		err = p.err
	}
	if err := errors.Join(err, primary.Resume(ctx)); err != nil {
		return fmt.Errorf("copy the primary: %w", err)
	}
	return s.writeFile(filepath.Join("data", "standby.signal"), nil)
}

// Promote makes a standby the primary of a timeline of its own, and waits until it may be
// written to.
func (s *Server) Promote(ctx context.Context) error {
	done, err := s.QueryString(ctx, "postgres", "SELECT pg_promote(true, "+strconv.Itoa(int(startTimeout.Seconds()))+")::text")
	if err == nil && done != "true" {
		err = errors.New("it stays a standby")
	}
	if err != nil {
		return fmt.Errorf("promote the standby: %w", err)
	}
	return nil
}

// PauseReplay keeps a standby from replaying anything, so that it lags behind.
func (s *Server) PauseReplay(ctx context.Context) error {
	// Up to PostgreSQL 13 the request is all that can be seen.
	state := "SELECT CASE WHEN pg_is_wal_replay_paused() THEN 'paused' ELSE '' END"
	version, err := s.QueryString(ctx, "postgres", "SHOW server_version_num")
	if err != nil {
		return err
	}
	if version >= "140000" {
		state = "SELECT pg_get_wal_replay_pause_state()"
	}
	if err := s.Exec(ctx, "postgres", "SELECT pg_wal_replay_pause()"); err != nil {
		return err
	}
	return s.waitFor(ctx, "the standby to pause", func() bool {
		now, err := s.QueryString(ctx, "postgres", state)
		return err == nil && now == "paused"
	})
}

// ResumeReplay ends PauseReplay.
func (s *Server) ResumeReplay(ctx context.Context) error {
	return s.Exec(ctx, "postgres", "SELECT pg_wal_replay_resume()")
}

// CatchUp waits until a standby has replayed all that its primary has done so far.
func (s *Server) CatchUp(ctx context.Context, primary *Server) error {
	position, err := primary.QueryString(ctx, "postgres", "SELECT pg_current_wal_insert_lsn()::text")
	if err != nil {
		return err
	}
	// A commit that is flushed takes along what came before it.
	if err := primary.Exec(ctx, "postgres", "SET synchronous_commit = on", "SELECT txid_current()"); err != nil {
		return err
	}
	err = s.waitFor(ctx, "the standby to catch up", func() bool {
		there, err := s.QueryString(ctx, "postgres", "SELECT (pg_last_wal_replay_lsn() >= $1::text::pg_lsn)::text", position)
		return err == nil && there == "true"
	})
	if err != nil {
		return fmt.Errorf("%w; its log ends with: %s", err, tail(s.Log()))
	}
	return nil
}
