package store

import (
	"context"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/access"
)

var accessSchema = schema{what: "readers of a role"}

// AccessLog is who read a role's secret, as far as that was flushed.
type AccessLog struct {
	Log access.Log `json:"log"`
	// Mark is that of the last page that was merged: a Put whose answer was lost is not
	// merged again.
	Mark        access.Mark `json:"mark"`
	FlushedTime time.Time   `json:"flushed_time"`
}

// AccessLog returns nil when nothing was flushed yet.
func (s *Store) AccessLog(ctx context.Context, role string) (*AccessLog, error) {
	return readPtr[AccessLog](ctx, s, accessKey(role), accessSchema)
}

// PutAccessLog stores who read a role's secret.
func (s *Store) PutAccessLog(ctx context.Context, role string, l *AccessLog) error {
	return s.write(ctx, accessKey(role), accessSchema, l)
}

// DeleteAccessLog removes it.
func (s *Store) DeleteAccessLog(ctx context.Context, role string) error {
	return s.delete(ctx, accessKey(role))
}
