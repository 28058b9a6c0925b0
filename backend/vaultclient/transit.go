package vaultclient

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

// TransitKey is a key of a transit mount.
type TransitKey struct {
	client *Client
	mount  string
	name   string
}

// TransitKey finds the key that a path names: transit/cards is the key cards. There need not
// be one.
func (c *Client) TransitKey(ctx context.Context, path string) (*TransitKey, error) {
	m, err := c.Mount(ctx, path)
	if err != nil {
		return nil, err
	}
	switch {
	case m.Type != "transit":
		return nil, fault.New(fault.Invalid, "%s is a mount of type %s, not of transit", m.Path, short(m.Type))
	case strings.Contains(m.Rest, "/"):
		return nil, fault.New(fault.Invalid, "%s: %q is not the name of a key of %s: the path is %s/name", path, m.Rest, m.Path, m.Path)
	}
	return &TransitKey{client: c, mount: m.Path, name: m.Rest}, nil
}

// Path is how people name the key.
func (k *TransitKey) Path() string { return k.mount + "/" + k.name }

// under is a path of the mount that ends with the key: transit/rewrap/cards.
func (k *TransitKey) under(verb string) string { return k.mount + "/" + verb + "/" + k.name }

// KeyState is what Vault says of a key.
type KeyState struct {
	Type string
	// Latest encrypts. MinDecryption is the earliest that decrypts, and MinEncryption the
	// earliest that may be asked to encrypt.
	Latest, MinDecryption, MinEncryption int
	// Derived keys need a context with each value.
	Derived bool
	// Encrypts and Decrypts tell whether keys of its type do.
	Encrypts, Decrypts bool
	// AutoRotate is how often Vault rotates it by itself; 0: never.
	AutoRotate time.Duration
	// Created are the times at which the versions that decrypt were made.
	Created map[int]time.Time
}

// State asks for what there is to know of the key.
func (k *TransitKey) State(ctx context.Context) (*KeyState, error) {
	var out struct {
		Type          string                     `json:"type"`
		Latest        int                        `json:"latest_version"`
		MinDecryption int                        `json:"min_decryption_version"`
		MinEncryption int                        `json:"min_encryption_version"`
		Derived       bool                       `json:"derived"`
		Encrypts      bool                       `json:"supports_encryption"`
		Decrypts      bool                       `json:"supports_decryption"`
		AutoRotate    int64                      `json:"auto_rotate_period"`
		Keys          map[string]jsonCreatedTime `json:"keys"`
	}
	in := call{action: "read the key " + k.Path(), method: http.MethodGet, path: k.under("keys")}
	if err := k.client.do(ctx, in, &out); err != nil {
		if refusalIn(err).absent() {
			return nil, fault.New(fault.NotFound, "there is no key %s: make it with vault write -f %s", k.Path(), k.under("keys"))
		}
		return nil, err
	}
	if out.Latest <= 0 || out.MinDecryption < 0 || out.MinDecryption > out.Latest {
		return nil, decode(in, nil, nil)
	}
	s := &KeyState{
		Type: out.Type, Latest: out.Latest, MinDecryption: max(out.MinDecryption, 1), MinEncryption: out.MinEncryption,
		Derived: out.Derived, Encrypts: out.Encrypts, Decrypts: out.Decrypts,
		AutoRotate: time.Duration(out.AutoRotate) * time.Second, Created: map[int]time.Time{},
	}
	for number, created := range out.Keys {
		if n, err := strconv.Atoi(number); err == nil {
			s.Created[n] = created.Time
		}
	}
	return s, nil
}

// jsonCreatedTime reads the time of a version: seconds, and for asymmetric keys something else.
type jsonCreatedTime struct{ time.Time }

// UnmarshalJSON implements json.Unmarshaler.
func (t *jsonCreatedTime) UnmarshalJSON(raw []byte) error {
	if seconds, err := strconv.ParseInt(string(raw), 10, 64); err == nil {
		t.Time = time.Unix(seconds, 0).UTC()
	}
	return nil
}

// Rotate makes the next version, by one call that nobody repeats. Unconfirmed: there may be
// one.
func (k *TransitKey) Rotate(ctx context.Context) error {
	in := call{action: "rotate the key " + k.Path(), method: http.MethodPost, path: k.under("keys") + "/rotate", body: struct{}{}, once: true}
	err := k.client.do(ctx, in, nil)
	// Before it was stored, or after.
	if r := refusalIn(err); r != nil && r.status >= http.StatusInternalServerError {
		return &fault.Error{Kind: fault.Unconfirmed, Message: err.Error(), Err: err}
	}
	return err
}

// SetMinDecryption lets no version below this one decrypt any more. Vault keeps their keys.
func (k *TransitKey) SetMinDecryption(ctx context.Context, version int) error {
	return k.client.do(ctx, call{
		action: "raise min_decryption_version of " + k.Path(), method: http.MethodPost, path: k.under("keys") + "/config",
		body: map[string]any{"min_decryption_version": version},
	}, nil)
}

// Ready tells why the token could not do with the key what a rotation needs.
func (k *TransitKey) Ready(ctx context.Context) error {
	needs := []struct{ path, capability string }{
		{k.under("keys"), "read"},
		{k.under("keys") + "/rotate", "update"},
		{k.under("keys") + "/config", "update"},
		{k.under("encrypt"), "update"},
		{k.under("rewrap"), "update"},
	}
	paths := make([]string, len(needs))
	for i, n := range needs {
		paths[i] = n.path
	}
	had, err := k.client.Capabilities(ctx, paths...)
	if err != nil {
		return err
	}
	var lines []string
	for _, n := range needs {
		if len(Missing(had[n.path], n.capability)) > 0 {
			lines = append(lines, policyLine(n.path, n.capability))
		}
	}
	if len(lines) > 0 {
		return fault.New(fault.Target, "the token may not do all that a rotation of the key %s needs: its policies lack %s", k.Path(), strings.Join(lines, "; "))
	}
	return nil
}
