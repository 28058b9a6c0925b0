package rotationsecrets

import (
	"strings"
	"sync"

	"github.com/hashicorp/vault/sdk/helper/identitytpl"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

// caller is who makes a request, as Vault's identity store knows it.
type caller struct {
	entity *logical.Entity
	groups []*logical.Group
}

// caller asks for an entity; nil when there is none, as with a root token. For an
// external plugin it is two calls to Vault's own process.
func (s system) caller(entityID string) (*caller, error) {
	if entityID == "" {
		return nil, nil
	}
	entity, err := s.view.EntityInfo(entityID)
	if err != nil || entity == nil {
		return nil, err
	}
	groups, err := s.view.GroupsForEntity(entityID)
	if err != nil {
		return nil, err
	}
	return &caller{entity: entity, groups: groups}, nil
}

// populate fills templates with the identity of a request's caller. Vault is asked
// for it by the first template that names it, and once only: a batch fills one for
// each item.
func (b *Backend) populate(req *logical.Request) func(template string) (string, error) {
	identity := sync.OnceValues(func() (*caller, error) { return system{b.System()}.caller(req.EntityID) })
	return func(template string) (string, error) {
		if !strings.Contains(template, "identity.") {
			return filled(template, &caller{})
		}
		who, err := identity()
		switch {
		case err != nil:
			return "", fault.New(fault.Internal, "look up the caller's identity: %w", err)
		case who == nil:
			return "", fault.New(fault.Invalid, "this needs a token with an entity")
		}
		return filled(template, who)
	}
}

// filled gives a template with its placeholders replaced by JSON values.
func filled(template string, who *caller) (string, error) {
	// Vault's templating does not quote what these give, and so would let it break out
	// of the text in which it stands.
	if strings.Contains(template, "identity.groups.") {
		return "", fault.New(fault.Invalid, "claims_template: may not name identity.groups; the caller's groups are identity.entity.groups.names and .ids")
	}
	in := identitytpl.PopulateStringInput{Mode: identitytpl.JSONTemplating, String: template, Groups: who.groups}
	if who.entity != nil {
		in.Entity, in.NamespaceID = who.entity, who.entity.NamespaceID
	}
	_, out, err := identitytpl.PopulateString(in)
	if err != nil {
		return "", fault.New(fault.Invalid, "claims_template: cannot be filled: %w", err)
	}
	return out, nil
}
