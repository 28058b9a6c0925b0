package store

import (
	"context"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/reencrypt"
)

var (
	targetSchema   = schema{what: "target of a re-encryption"}
	progressSchema = schema{what: "progress of a re-encryption"}
)

// TargetProgress is how far the re-encryption of one target is.
type TargetProgress struct {
	// Job and Round are those of the pass; another one begins anew.
	Job      string             `json:"job"`
	Round    int                `json:"round"`
	Progress reencrypt.Progress `json:"progress"`
	// Failure is why it does not go on, "" for no reason.
	Failure string `json:"failure,omitempty"`
	// Counted is what the last count found.
	Counted *reencrypt.Counts `json:"counted,omitempty"`
}

// Target returns nil when the role has none of this name.
func (s *Store) Target(ctx context.Context, role, name string) (*reencrypt.Target, error) {
	return readPtr[reencrypt.Target](ctx, s, targetFolder(role)+name, targetSchema)
}

// PutTarget stores where data of a role lies.
func (s *Store) PutTarget(ctx context.Context, role, name string, t *reencrypt.Target) error {
	return s.write(ctx, targetFolder(role)+name, targetSchema, t)
}

// DeleteTarget removes a target, and how far it was.
func (s *Store) DeleteTarget(ctx context.Context, role, name string) error {
	if err := s.delete(ctx, progressFolder(role)+name); err != nil {
		return err
	}
	return s.delete(ctx, targetFolder(role)+name)
}

// Targets lists the names of a role's targets.
func (s *Store) Targets(ctx context.Context, role string) ([]string, error) {
	return s.list(ctx, targetFolder(role))
}

// Progress returns nil when a target's re-encryption never began.
func (s *Store) Progress(ctx context.Context, role, target string) (*TargetProgress, error) {
	return readPtr[TargetProgress](ctx, s, progressFolder(role)+target, progressSchema)
}

// PutProgress stores how far a target is.
func (s *Store) PutProgress(ctx context.Context, role, target string, p *TargetProgress) error {
	return s.write(ctx, progressFolder(role)+target, progressSchema, p)
}

// deleteTargets removes all targets of a role.
func (s *Store) deleteTargets(ctx context.Context, role string) error {
	names, err := s.Targets(ctx, role)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := s.DeleteTarget(ctx, role, name); err != nil {
			return err
		}
	}
	return nil
}
