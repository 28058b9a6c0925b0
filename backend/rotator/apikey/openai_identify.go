package apikey

import (
	"context"
	"net/url"
	"regexp"
	"slices"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// openAIKey is a key of a project as it is listed.
type openAIKey struct {
	ID       string `json:"id"`
	Redacted string `json:"redacted_value"`
	Owner    struct {
		ServiceAccount *struct {
			ID string `json:"id"`
		} `json:"service_account"`
	} `json:"owner"`
}

// openAIAlike is what keys have in common, by who owns them.
var openAIAlike = alike{begin: regexp.MustCompile(`^sk-(?:proj-|svcacct-|admin-|None-)?`)}

// account is the service account that owns the key; empty where a person does.
func (k *openAIKey) account() string {
	if k.Owner.ServiceAccount == nil {
		return ""
	}
	return k.Owner.ServiceAccount.ID
}

// identify implements provider with GET /organization/projects/{project}/api_keys. The
// whole list is read, also when the id is known: it tells what else the owner has.
func (o *openAI) identify(ctx context.Context, key secret.String, id string) (reference, error) {
	keys, err := o.keys(ctx)
	if err != nil {
		return reference{}, err
	}
	k, err := o.match(keys, key, id)
	if err != nil {
		return reference{}, err
	}
	if !validID(k.ID) || betrays(k.ID, key) || k.account() != "" && !validID(k.account()) {
		return reference{}, fault.New(fault.Target, "OpenAI gives an id of the key that cannot be used")
	}
	if err := soleOfAccount(keys, k); err != nil {
		return reference{}, err
	}
	return reference{ID: k.ID, Owner: k.account()}, nil
}

// keys lists the project's keys. Without owner_project_access=any those of some owners are
// left out.
func (o *openAI) keys(ctx context.Context) ([]openAIKey, error) {
	return listOpenAI[openAIKey](ctx, o, "list the keys of project "+o.project, o.under("/api_keys"), url.Values{"owner_project_access": {"any"}})
}

// match finds the one key of a list that a key can be.
func (o *openAI) match(keys []openAIKey, key secret.String, id string) (*openAIKey, error) {
	var like []string
	var match *openAIKey
	for i := range keys {
		k := &keys[i]
		fits := hintFits(k.Redacted, key)
		switch {
		case id != "" && k.ID == id && !fits:
			return nil, fault.Field("key_id", "is the id of another key: what OpenAI shows of it does not fit the key")
		case fits && (id == "" || k.ID == id) && !slices.Contains(like, k.ID):
			match, like = k, append(like, k.ID)
		}
	}
	switch {
	case len(like) == 0 && id != "":
		return nil, fault.Field("key_id", "is the id of no key of project %s", o.project)
	case len(like) == 0:
		return nil, fault.Field("key", "is none of the keys of project %s", o.project)
	case len(like) > 1:
		return nil, fault.Field("key_id", "is required: %d keys of project %s look like this one (%s)", len(like), o.project, listed(like))
	case id == "" && openAIAlike.told(match.Redacted, key) < minTold:
		return nil, fault.Field("key_id", "is required: one key of project %s looks like this one (%s), and OpenAI shows too little of it to be sure", o.project, listed(like))
	}
	return match, nil
}

// soleOfAccount refuses a key whose service account has others: they would end with it.
func soleOfAccount(keys []openAIKey, k *openAIKey) error {
	if k.account() == "" {
		return nil
	}
	others := 0
	for i := range keys {
		if keys[i].account() == k.account() && keys[i].ID != k.ID {
			others++
		}
	}
	if others > 0 {
		return fault.Field("key", "belongs to service account %s, which has %d more: OpenAI ends a service account's keys only all together. "+
			"Hand in a key that has a service account of its own, or that belongs to a user", k.account(), others)
	}
	return nil
}
