package apikey

import (
	"context"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// rootPropagation is how long a new admin key may be refused at first.
const rootPropagation = 15 * time.Second

var _ rotator.RootMinter = (*ConnectionKind)(nil)

// roots returns the provider's way to rotate the admin key, if it has one.
func (k *ConnectionKind) roots(conn rotator.Connection) (rootKeys, *Connection, error) {
	c, err := own(conn)
	if err != nil {
		return nil, nil, err
	}
	roots, ok := c.provider.(rootKeys)
	if !ok {
		return nil, nil, fault.New(fault.Invalid, "connections of type %s have no credential that can be rotated here: %s has no call for that", k.Type(), c.title())
	}
	return roots, c, nil
}

// RootID implements rotator.RootMinter.
func (k *ConnectionKind) RootID(ctx context.Context, conn rotator.Connection) (string, error) {
	roots, c, err := k.roots(conn)
	if err != nil {
		return "", err
	}
	r, err := roots.rootIdentify(ctx, c.adminKey)
	return r.ID, fault.In("find the admin key in use", err)
}

// MintRoot implements rotator.RootMinter.
func (k *ConnectionKind) MintRoot(ctx context.Context, conn rotator.Connection, name string) (secret.Map, error) {
	roots, c, err := k.roots(conn)
	if err != nil {
		return nil, err
	}
	made, err := roots.rootCreate(ctx, name)
	if err != nil {
		return nil, err
	}
	if !made.Reference.Expires.IsZero() {
		return nil, fault.New(fault.Unconfirmed, "the new admin key ends by itself at %s: it is not taken into use", made.Reference.Expires.Format(time.RFC3339))
	}
	// Until its provider knows it, it would be taken for one that was not set. Should it
	// not be known in time, the engine finds that out once more.
	next, err := c.withAdminKey(made.Key)
	if err != nil {
		return nil, fault.New(fault.Unconfirmed, "the new admin key was made, and cannot be taken into use: %w", err)
	}
	_ = untilAccepted(ctx, rootPropagation, func() error { return next.ping(ctx) })
	return secret.Map{"admin_key": made.Key}, nil
}

// EndRoot implements rotator.RootMinter.
func (k *ConnectionKind) EndRoot(ctx context.Context, conn rotator.Connection, id, name string) error {
	roots, _, err := k.roots(conn)
	if err != nil {
		return err
	}
	if id != "" {
		return fault.In("end an earlier admin key", roots.rootRevoke(ctx, reference{ID: id}))
	}
	return endNamed("end", "an admin key", name,
		func() ([]found, error) { return roots.rootFind(ctx, name) },
		func(r reference) error { return roots.rootRevoke(ctx, r) })
}
