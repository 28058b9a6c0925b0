package encryption

import (
	"context"
	"fmt"
	"strings"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/vaultclient"
)

// A role with a backend has no keys of its own: they are those of a transit engine, in
// another Vault or this one. Applications go on calling that; what is done here is the rest
// of a rotation. Transit rotates, stored data follows by its rewrap, and when a count finds
// nothing of the earlier versions, min_decryption_version is raised there.
//
// The numbers of versions are transit's. It counts by itself, encrypts with the latest from
// the moment on at which it is there, and has no way to take one back: so the role only goes
// forward.

const (
	backendOption = "backend"
	// vaultType is the type= of the connections that lead to a transit engine.
	vaultType = "vault"
)

const noWayBack = "transit has no way to take a version back, and encrypts with the latest: a rotation that fails once the key was rotated there goes on with that version, and no rollback is possible"

// backend says where a role's key is.
type backend struct {
	connection string
	path       string // of the key: mount and name
}

// backendOf is nil for a role whose keys are kept here.
func backendOf(r *rotator.Role) *backend {
	if r == nil {
		return nil
	}
	return parseBackend(r.Values)
}

func parseBackend(values option.Values) *backend {
	text, _ := values[backendOption].(string)
	if text == "" {
		return nil
	}
	connection, path, _ := strings.Cut(text, "/")
	return &backend{connection: connection, path: path}
}

func hasBackend(r *rotator.Role) bool { return backendOf(r) != nil }

// ConnectionOf implements rotator.Connector.
func (*Rotator) ConnectionOf(values option.Values) (name string, types []string) {
	if b := parseBackend(values); b != nil {
		return b.connection, []string{vaultType}
	}
	return "", nil
}

// PrepareIsIrreversible implements rotator.Irreversible.
func (*Rotator) PrepareIsIrreversible(r *rotator.Role) bool { return hasBackend(r) }

// NoWayBack implements rotator.OnlyForward.
func (*Rotator) NoWayBack(r *rotator.Role) string {
	if hasBackend(r) {
		return "a transit key's latest version cannot go back; what it encrypted decrypts, and rotate makes another version"
	}
	return ""
}

// checkBackend refuses what makes no sense of keys that are kept elsewhere.
func checkBackend(r *rotator.Role) error {
	b := backendOf(r)
	if b == nil {
		return nil
	}
	for _, name := range []string{"key_type", "derived", "exportable"} {
		if _, given := r.Values[name]; given {
			return fault.Field(name, "must be left out where backend names a key: it is transit's to say")
		}
	}
	if imports(r) {
		return fault.Field(backendOption, "excludes import_key and backup: no key comes here")
	}
	if b.connection == "" || b.path == "" {
		return fault.Field(backendOption, "must be <connection>/<mount>/<key>, such as self/transit/intelliflow-data")
	}
	allowed, err := allowedPaths(r.ConnectionValues)
	if err != nil {
		return err
	}
	if err := vaultclient.Admit(allowed, b.path); err != nil {
		return fault.Field(backendOption, "%s", err)
	}
	return nil
}

// allowedPathSet is what matters here of a connection's options.
var allowedPathSet = option.Set{{Name: "allowed_paths", Type: option.List}}

func allowedPaths(connection option.Values) ([]string, error) {
	var out struct {
		Paths []string `json:"allowed_paths"`
	}
	own := option.Values{}
	if value, given := connection["allowed_paths"]; given {
		own["allowed_paths"] = value
	}
	err := allowedPathSet.Decode(own, &out)
	return out.Paths, err
}

// vault is a connection that leads to transit keys.
type vault interface {
	TransitKey(ctx context.Context, path string) (*vaultclient.TransitKey, error)
}

// remoteKey finds the role's key, and what there is to know of it.
func remoteKey(ctx context.Context, conn rotator.Connection, r *rotator.Role) (*vaultclient.TransitKey, *vaultclient.KeyState, error) {
	v, ok := conn.(vault)
	if !ok {
		return nil, nil, fmt.Errorf("the connection of a backend is a %T", conn)
	}
	key, err := v.TransitKey(ctx, backendOf(r).path)
	if err != nil {
		return nil, nil, err
	}
	state, err := key.State(ctx)
	if err != nil {
		return nil, nil, err
	}
	if keyTypeNamed(state.Type) == nil || !state.Encrypts || !state.Decrypts {
		return nil, nil, fault.New(fault.Target, "the key %s is of a type that is not supported here; those are %s", key.Path(), keyTypeNames())
	}
	return key, state, nil
}

// ofConnection keeps what went wrong apart from what is wrong with a version: that our own
// credential is refused, or a path denied, proves nothing.
func ofConnection(err error) error {
	switch fault.KindOf(err) {
	case "", fault.Unreachable, fault.Unconfirmed:
		return err
	case fault.NotFound:
		return &fault.Error{Kind: fault.Target, Message: err.Error(), Err: err}
	default:
		return &fault.Error{Kind: fault.Unreachable, Message: err.Error(), Err: err}
	}
}

// Preflight implements rotator.Preflighter.
func (*Rotator) Preflight(ctx context.Context, t *rotator.Target) ([]rotator.Line, error) {
	if !hasBackend(t.Role) {
		return nil, nil
	}
	key, state, err := remoteKey(ctx, t.Conn, t.Role)
	if err != nil {
		return nil, err
	}
	lines := []rotator.Line{{
		Check: backendOption, Result: rotator.Pass,
		Detail: fmt.Sprintf("the key %s is of type %s, at version %d, and decrypts from version %d on", key.Path(), state.Type, state.Latest, state.MinDecryption),
	}}
	if err := key.Ready(ctx); err != nil {
		lines = append(lines, rotator.Line{Check: "policies", Result: rotator.Fail, Detail: err.Error()})
	}
	if state.AutoRotate > 0 {
		lines = append(lines, rotator.Line{Check: "auto_rotate_period", Result: rotator.Fail, Detail: fmt.Sprintf(
			"transit rotates the key %s by itself every %s, beside this role: set auto_rotate_period=0 there", key.Path(), state.AutoRotate)})
	}
	if known := newest(t); known > 0 && state.Latest > known {
		lines = append(lines, rotator.Line{Check: "foreign versions", Result: rotator.Warn, Detail: foreign(key, state, known) + ", and the next rotation takes over"})
	}
	return lines, nil
}

// foreign says that somebody else rotated the key.
func foreign(key *vaultclient.TransitKey, state *vaultclient.KeyState, known int) string {
	return fmt.Sprintf("somebody else rotated the key %s: its latest version is %d, which this role does not have, and not %d", key.Path(), state.Latest, known)
}
