// Package vault is the type of connection to another Vault, or to the one that hosts this
// plugin: what readers get is copied to its KV version 2, and roles rotate keys of its
// transit engine.
package vault

import (
	"context"
	"net/http"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/dependent"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/vaultclient"
)

// Type is the type= of the connections.
const Type = "vault"

// ConnectionKind is the type of connection.
type ConnectionKind struct {
	// Transport wraps the network in tests; nil leaves it.
	Transport func(http.RoundTripper) http.RoundTripper
	// RetryWait is the first wait before a request is repeated; 0 for the usual one.
	RetryWait time.Duration
	// Now is the clock; nil for the real one.
	Now func() time.Time
}

var (
	_ rotator.ConnectionKind = (*ConnectionKind)(nil)
	_ dependent.Mirrorer     = (*ConnectionKind)(nil)
)

// NewConnectionKind returns the type of connection.
func NewConnectionKind() *ConnectionKind { return &ConnectionKind{} }

// Type implements rotator.ConnectionKind.
func (*ConnectionKind) Type() string { return Type }

// Options implements rotator.ConnectionKind.
func (*ConnectionKind) Options() option.Set { return connectionOptionSet }

// CheckConnection implements rotator.ConnectionKind.
func (k *ConnectionKind) CheckConnection(c *rotator.ConnectionConfig) ([]string, error) {
	s, err := decode(c)
	if err != nil {
		return nil, err
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	client, err := vaultclient.New(s.client())
	if err != nil {
		return nil, err
	}
	client.Close()
	return s.warnings(), nil
}

// Connection is an open connection to a Vault.
type Connection struct {
	*vaultclient.Client
	allowedPaths []string
}

// TransitKey finds the key that a path names, if the connection admits it.
func (c *Connection) TransitKey(ctx context.Context, path string) (*vaultclient.TransitKey, error) {
	if err := vaultclient.Admit(c.allowedPaths, path); err != nil {
		return nil, err
	}
	return c.Client.TransitKey(ctx, path)
}

// Open implements rotator.ConnectionKind. It does not dial.
func (k *ConnectionKind) Open(c *rotator.ConnectionConfig) (rotator.Connection, error) {
	s, err := decode(c)
	if err != nil {
		return nil, err
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	o := s.client()
	o.Transport, o.RetryWait, o.Now = k.Transport, k.RetryWait, k.Now
	client, err := vaultclient.New(o)
	if err != nil {
		return nil, err
	}
	return &Connection{Client: client, allowedPaths: s.AllowedPaths}, nil
}

func own(conn rotator.Connection) (*Connection, error) {
	c, ok := conn.(*Connection)
	if !ok || c == nil {
		return nil, fault.New(fault.Internal, "not a connection to a Vault")
	}
	return c, nil
}

// pingTimeout bounds the one call that is made while a request to this plugin is answered.
const pingTimeout = 10 * time.Second

// Ping implements rotator.ConnectionKind with auth/token/lookup-self.
func (*ConnectionKind) Ping(ctx context.Context, conn rotator.Connection) error {
	c, err := own(conn)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	_, err = c.Token(ctx)
	return err
}

// CheckPath implements dependent.Mirrorer.
func (*ConnectionKind) CheckPath(c *rotator.ConnectionConfig, path string) error {
	s, err := decode(c)
	if err != nil {
		return err
	}
	return vaultclient.Admit(s.AllowedPaths, path)
}

// secretAt finds the secret at a path that the connection admits still.
func secretAt(ctx context.Context, conn rotator.Connection, path string) (*vaultclient.KV, error) {
	c, err := own(conn)
	if err != nil {
		return nil, err
	}
	if err := vaultclient.Admit(c.allowedPaths, path); err != nil {
		return nil, err
	}
	return c.KV(ctx, path)
}

// Ready implements dependent.Mirrorer: the mount is one of KV version 2, and the token may
// do there what a copy needs.
func (*ConnectionKind) Ready(ctx context.Context, conn rotator.Connection, path string) error {
	kv, err := secretAt(ctx, conn, path)
	if err != nil {
		return err
	}
	return kv.Ready(ctx)
}

// Read implements dependent.Mirrorer.
func (*ConnectionKind) Read(ctx context.Context, conn rotator.Connection, path string) (dependent.Copy, error) {
	kv, err := secretAt(ctx, conn, path)
	if err != nil {
		return dependent.Copy{}, err
	}
	latest, err := kv.Read(ctx)
	if err != nil {
		return dependent.Copy{}, err
	}
	return dependent.Copy{Version: latest.Version, Deleted: latest.Gone, Fields: latest.Fields}, nil
}

// Write implements dependent.Mirrorer.
func (*ConnectionKind) Write(ctx context.Context, conn rotator.Connection, path string, fields secret.Map, instead int) (int, error) {
	kv, err := secretAt(ctx, conn, path)
	if err != nil {
		return 0, err
	}
	return kv.Write(ctx, fields, instead)
}
