package vaulttest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// A Snapshot is a copy of the server's storage as it was. It lives as long as its Server.
type Snapshot struct{ dir string }

// SnapshotStorage copies everything that Vault has stored. The server is restarted for it, so that
// the copy is whole.
func (s *Server) SnapshotStorage(ctx context.Context) (Snapshot, error) {
	if err := s.Stop(ctx); err != nil {
		return Snapshot{}, err
	}
	s.snapshots++
	snapshot := Snapshot{dir: filepath.Join(s.dir, fmt.Sprintf("snapshot-%d", s.snapshots))}
	if err := os.CopyFS(snapshot.dir, os.DirFS(s.storageDir())); err != nil {
		return Snapshot{}, fmt.Errorf("copy Vault's storage: %w", err)
	}
	return snapshot, s.Restart(ctx)
}

// RestoreStorage puts the server's storage back to what it was at the snapshot, as after a restored
// backup: everything that was written since is forgotten. The server is restarted for it. A snapshot
// can be restored more than once.
func (s *Server) RestoreStorage(ctx context.Context, snapshot Snapshot) error {
	if snapshot.dir == "" {
		return errors.New("this snapshot was never taken")
	}
	if err := s.Stop(ctx); err != nil {
		return err
	}
	if err := os.RemoveAll(s.storageDir()); err != nil {
		return err
	}
	if err := os.CopyFS(s.storageDir(), os.DirFS(snapshot.dir)); err != nil {
		return fmt.Errorf("restore Vault's storage: %w", err)
	}
	return s.Restart(ctx)
}
