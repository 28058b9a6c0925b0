package apikey

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// openAIAdminKeys is the path of the organization's admin keys. They belong to no project.
const openAIAdminKeys = "/organization/admin_api_keys"

// openAIAdminKey is an admin key as it is listed.
type openAIAdminKey struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	Redacted  string `json:"redacted_value"`
	CreatedAt int64  `json:"created_at"`
}

// rootCreate implements rootKeys with POST /organization/admin_api_keys.
func (o *openAI) rootCreate(ctx context.Context, name string) (*created, error) {
	a, err := o.administer(ctx, call{
		action: "make an admin key", method: http.MethodPost, path: openAIAdminKeys, body: map[string]string{"name": name}, once: true,
	})
	if err != nil {
		return nil, err
	}
	if a.notMade() {
		return nil, a.failed()
	}
	var in openAINewKey
	if !a.ok() || json.Unmarshal(a.Body, &in) != nil || !validID(in.ID) {
		return nil, a.unconfirmed()
	}
	key := secret.New(in.Value)
	if !strings.HasPrefix(in.Value, openAIAdminPrefix) || checkKeyText(key) != nil || betrays(in.ID, key) {
		return nil, a.unconfirmed()
	}
	return &created{Key: key, Reference: reference{ID: in.ID, Expires: instant(in.ExpiresAt)}}, nil
}

// adminKeys lists the organization's admin keys: GET /organization/admin_api_keys.
func (o *openAI) adminKeys(ctx context.Context) ([]openAIAdminKey, error) {
	return listOpenAI[openAIAdminKey](ctx, o, "list the admin keys", openAIAdminKeys, nil)
}

// rootFind implements rootKeys with GET /organization/admin_api_keys.
func (o *openAI) rootFind(ctx context.Context, prefix string) ([]found, error) {
	keys, err := o.adminKeys(ctx)
	if err != nil {
		return nil, err
	}
	var out []found
	for _, k := range keys {
		if !strings.HasPrefix(k.Name, prefix) {
			continue
		}
		if !validID(k.ID) {
			return nil, fault.New(fault.Target, "OpenAI lists an admin key with an id that cannot be used")
		}
		out = append(out, found{Name: k.Name, Reference: reference{ID: k.ID}, Created: instant(k.CreatedAt)})
	}
	return out, nil
}

// rootIdentify implements rootKeys with GET /organization/admin_api_keys. However little a
// hint shows, the only one that fits is right: the key is in the list that it may read.
func (o *openAI) rootIdentify(ctx context.Context, key secret.String) (reference, error) {
	keys, err := o.adminKeys(ctx)
	if err != nil {
		return reference{}, err
	}
	var like []string
	for _, k := range keys {
		if hintFits(k.Redacted, key) {
			like = append(like, k.ID)
		}
	}
	switch {
	case len(like) == 0:
		return reference{}, fault.New(fault.Target, "OpenAI lists no admin key that the one in use can be")
	case len(like) > 1:
		return reference{}, fault.New(fault.Target, "OpenAI lists %d admin keys that look like the one in use (%s)", len(like), listed(like))
	case !validID(like[0]):
		return reference{}, fault.New(fault.Target, "OpenAI gives an id of the admin key that cannot be used")
	}
	return reference{ID: like[0]}, nil
}

// rootRevoke implements rootKeys with DELETE /organization/admin_api_keys/{id}.
func (o *openAI) rootRevoke(ctx context.Context, r reference) error {
	_, err := o.delete(ctx, "delete admin key "+r.ID, openAIAdminKeys, r.ID)
	return err
}
