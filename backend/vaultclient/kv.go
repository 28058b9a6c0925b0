package vaultclient

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// KV is a secret in a mount of KV version 2.
type KV struct {
	client *Client
	mount  string
	name   string
}

// KV finds the secret that a path names; there need not be one yet.
func (c *Client) KV(ctx context.Context, path string) (*KV, error) {
	m, err := c.Mount(ctx, path)
	if err != nil {
		return nil, err
	}
	first, _, _ := strings.Cut(m.Rest, "/")
	switch {
	case m.Type != "kv" && m.Type != "generic":
		return nil, fault.New(fault.Invalid, "%s is a mount of type %s, not of KV version 2", m.Path, short(m.Type))
	case m.Version != "2":
		return nil, fault.New(fault.Invalid, "%s is a mount of KV version 1, which has no check-and-set: use one of version 2, or run vault kv enable-versioning %s", m.Path, m.Path)
	case slices.Contains([]string{"data", "metadata"}, first) && first != m.Rest:
		return nil, fault.New(fault.Invalid, "%s: leave %s/ out, as in vault kv get: the path is %s/%s", path, first, m.Path, strings.TrimPrefix(m.Rest, first+"/"))
	}
	return &KV{client: c, mount: m.Path, name: m.Rest}, nil
}

// short keeps what another system answered within a sentence.
func short(text string) string {
	if len(text) > 40 || strings.ContainsFunc(text, func(r rune) bool { return r != '-' && unfit(r) }) {
		return "that is not known"
	}
	return text
}

// Path is how people name the secret.
func (k *KV) Path() string { return k.mount + "/" + k.name }

// DataPath is where policies find it.
func (k *KV) DataPath() string { return k.mount + "/data/" + k.name }

// Secret is the latest version of a secret.
type Secret struct {
	Version int // 0 where there never was one
	// Gone tells that the latest version was deleted or destroyed.
	Gone bool
	// Fields are those whose values are texts.
	Fields secret.Map
}

// Read gives the latest version.
func (k *KV) Read(ctx context.Context) (*Secret, error) {
	var out kvData
	in := call{action: "read " + k.Path(), method: http.MethodGet, path: k.DataPath()}
	err := k.client.do(ctx, in, &out)
	switch r := refusalIn(err); {
	case r.absent():
		return &Secret{}, nil
	case r != nil && r.status == http.StatusNotFound && out.past(r.body):
		return &Secret{Version: out.Metadata.Version, Gone: true}, nil
	case err != nil:
		return nil, upgrading(err)
	case out.Metadata.Version <= 0:
		return nil, decode(in, nil, nil)
	}
	return &Secret{Version: out.Metadata.Version, Gone: out.Data == nil, Fields: out.texts()}, nil
}

// kvData is what a read answers: by 404 too, where the latest version is gone.
type kvData struct {
	Data     map[string]any `json:"data"`
	Metadata struct {
		Version int `json:"version"`
	} `json:"metadata"`
}

func (d *kvData) past(body []byte) bool {
	var in struct {
		Data *kvData `json:"data"`
	}
	if json.Unmarshal(body, &in) != nil || in.Data == nil || in.Data.Data != nil || in.Data.Metadata.Version <= 0 {
		return false
	}
	*d = *in.Data
	return true
}

func (d *kvData) texts() secret.Map {
	out := secret.Map{}
	for name, value := range d.Data {
		if text, ok := value.(string); ok {
			out[name] = secret.New(text)
		}
	}
	return out
}

// Write makes the next version, if the latest is still the one that is named, and gives its
// number. It fails with Conflict where that is another, and with Unconfirmed or Unreachable
// where it may have been made.
func (k *KV) Write(ctx context.Context, fields secret.Map, latest int) (version int, err error) {
	var out struct {
		Version int `json:"version"`
	}
	in := call{
		action: "write " + k.Path(), method: http.MethodPost, path: k.DataPath(), once: true,
		body: map[string]any{"options": map[string]any{"cas": latest}, "data": fields.Reveal()},
	}
	for _, value := range fields {
		in.secrets = append(in.secrets, value)
	}
	err = k.client.do(ctx, in, &out)
	switch r := refusalIn(err); {
	case r != nil && r.status == http.StatusBadRequest && r.says("check-and-set parameter did not match"):
		return 0, fault.New(fault.Conflict, "write %s: its latest version is not %d any more: somebody else wrote it", k.Path(), latest)
	case err != nil:
		return 0, upgrading(err)
	case out.Version <= 0:
		return 0, decode(in, nil, nil)
	}
	return out.Version, nil
}

// upgrading tells of a mount that was just made, and is not ready for a moment.
func upgrading(err error) error {
	if r := refusalIn(err); r != nil && r.status == http.StatusBadRequest && r.says("Upgrading from non-versioned to versioned") {
		return &fault.Error{Kind: fault.Unreachable, Message: err.Error(), Err: err}
	}
	return err
}

// Ready tells why the token could not write and read the secret.
func (k *KV) Ready(ctx context.Context) error {
	caps, err := k.client.Capabilities(ctx, k.DataPath())
	if err != nil {
		return err
	}
	if missing := Missing(caps[k.DataPath()], "read", "create", "update"); len(missing) > 0 {
		return fault.New(fault.Target, "the token may not %s %s: its policies need %s", strings.Join(missing, ", nor "), k.DataPath(), policyLine(k.DataPath(), "create", "read", "update"))
	}
	return nil
}

// policyLine is what an operator adds to a policy.
func policyLine(path string, capabilities ...string) string {
	return fmt.Sprintf(`path %q { capabilities = ["%s"] }`, path, strings.Join(capabilities, `", "`))
}
