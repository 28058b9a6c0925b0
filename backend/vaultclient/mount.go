package vaultclient

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

// Mount is a secrets engine, as the token may know of it.
type Mount struct {
	Path string // without the slash at its end
	Type string
	// Version is the option of that name, which engines of type kv have.
	Version string
	// Rest is what is left of the path that was asked about.
	Rest string
}

// Mount finds the mount of a path. Its own name may have slashes, so that only Vault can say
// where it ends.
func (c *Client) Mount(ctx context.Context, path string) (*Mount, error) {
	if err := CheckPath(path); err != nil {
		return nil, err
	}
	var out struct {
		Path    string            `json:"path"`
		Type    string            `json:"type"`
		Options map[string]string `json:"options"`
	}
	in := call{action: "find the mount of " + path, method: http.MethodGet, path: "sys/internal/ui/mounts/" + path}
	if err := c.do(ctx, in, &out); err != nil {
		if denied(err) {
			return nil, fault.New(fault.Target, "there is no mount at %s, or the token may do nothing there: %w", path, err)
		}
		return nil, err
	}
	rest, ok := strings.CutPrefix(path+"/", out.Path)
	if !ok || out.Path == "" || !strings.HasSuffix(out.Path, "/") || CheckPath(out.Path+"x") != nil {
		return nil, fault.New(fault.Target, "%s: Vault names a mount that is not one of this path", in.action)
	}
	m := &Mount{Path: strings.TrimSuffix(out.Path, "/"), Type: out.Type, Version: out.Options["version"], Rest: strings.TrimSuffix(rest, "/")}
	if m.Rest == "" {
		return nil, fault.New(fault.Invalid, "%s is the mount itself: name what lies in it, such as %s/name", path, m.Path)
	}
	return m, nil
}

// Capabilities tells what the token may do at each path of Vault's API.
func (c *Client) Capabilities(ctx context.Context, paths ...string) (map[string][]string, error) {
	out := map[string][]string{}
	err := c.do(ctx, call{
		action: "ask what the token may do", method: http.MethodPost, path: "sys/capabilities-self", body: map[string]any{"paths": paths},
	}, &out)
	return out, err
}

// Missing gives those of the capabilities that are wanted and not had; root has all.
func Missing(had []string, wanted ...string) []string {
	if slices.Contains(had, "root") {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(wanted), func(w string) bool { return slices.Contains(had, w) })
}
