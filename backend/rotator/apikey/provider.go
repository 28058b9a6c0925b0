// Package apikey rotates API keys in pairs: the next key is made, or handed in by a
// person, verified, and promoted, while the one before it lives on until its grace is over.
package apikey

import (
	"context"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// provider is an API in which keys live, as one connection reaches it. A method makes one
// call or a few, all bounded by the context. Errors are faults: AuthFailed is the
// provider's own refusal of the key that the call was made with; Unreachable and
// Unconfirmed are egress's; a provider that answers and declines is Target.
type provider interface {
	// title is the provider's name in sentences.
	title() string

	// abilities say what else it can do; a method behind one that is missing is not called.
	abilities() abilities

	// ping proves the connection's own credential, AuthFailed when it is refused. Without
	// one there is nothing to prove.
	ping(ctx context.Context) error

	// witness proves by the connection's own credential that the provider answers, and
	// accepts something at the API that refuses a key. The result says in a few words what
	// was accepted, such as "the admin key". errNoWitness says that there is no credential
	// that could be tried, or no call for that.
	witness(ctx context.Context) (string, error)

	// check says line by line what that credential may do. It changes nothing.
	check(ctx context.Context) ([]rotator.Line, error)

	// checkKey refuses, without the network, a key handed in that this provider cannot have
	// made, or that must not be handed to applications. The fault is of the field key.
	checkKey(key secret.String) error

	// verify proves that a key is accepted: also one that may do nothing there ("valid but
	// forbidden"). The result is the provider's answer in a few words, such as "200" or
	// "403 permission_error". AuthFailed says that the key is refused as such.
	verify(ctx context.Context, key secret.String) (answer string, err error)

	// create makes a key that bears the name, by one call that is never repeated.
	// Unconfirmed says that there may be one now.
	create(ctx context.Context, name string) (*created, error)

	// find lists the keys whose name begins with prefix.
	find(ctx context.Context, prefix string) ([]found, error)

	// identify finds the provider's id of a key that exists. id, when not empty, is what a
	// person says it is: it is only checked.
	identify(ctx context.Context, key secret.String, id string) (reference, error)

	// disable lets the provider refuse a key until enable; both are done where the key
	// stands so already. gone tells that the provider says, in its own form, that there is
	// no such key: it cannot be enabled (Target), and is as good as disabled where it is the
	// provider that the key lived at.
	disable(ctx context.Context, r reference) (gone bool, err error)
	enable(ctx context.Context, r reference) error

	// revoke ends a key for good; gone is as with disable.
	revoke(ctx context.Context, r reference) (gone bool, err error)

	// replace changes the one key in place: the earlier one is refused from then on.
	// Unconfirmed says that it may have happened; the new key is then lost.
	replace(ctx context.Context, r reference) (*created, error)

	// steps tell a person where to make a key by hand, and where to end one.
	byHand() byHand
}

// rootKeys is a provider at which the connection's own credential is a key that can be made
// and ended by a call. Errors are as those of provider; a new credential takes the place of
// the old one when it is stored, not here.
type rootKeys interface {
	// rootCreate makes a credential of the same power that bears the name, by one call that
	// is never repeated. Unconfirmed says that there may be one now.
	rootCreate(ctx context.Context, name string) (*created, error)

	// rootFind lists the credentials whose name begins with prefix.
	rootFind(ctx context.Context, prefix string) ([]found, error)

	// rootIdentify finds the provider's id of a credential. Target says that none fits, or
	// several do: it is then not known which to end.
	rootIdentify(ctx context.Context, key secret.String) (reference, error)

	// rootRevoke ends a credential for good. One that is gone already is done.
	rootRevoke(ctx context.Context, r reference) error
}

// errNoWitness says that nothing of the connection's own can be compared with a key.
var errNoWitness = fault.New(fault.Target, "the connection has no credential of its own that could be tried")

// theAdminKey is what most providers' witness is.
const theAdminKey = "the admin key"

// abilities of a provider.
type abilities struct {
	// Create, Replace: keys are made, or changed in place, by a call.
	Create, Replace bool
	// Identify: the id of a key can be found, and it can then be ended, or replaced, by its id.
	Identify bool
	// Disable: a key can be refused and brought back. Revoke: it can be ended for good.
	Disable, Revoke bool
	// Propagation is how long a key that was just made may be refused at first. Within it
	// verify says no more of such a key than its success: a refusal is to be asked again.
	Propagation time.Duration
}

// byHand are sentences without a full stop, for a person.
type byHand struct {
	// Make: "make a new key of workspace X in the Anthropic Console (Settings, API keys)".
	Make string
	// End: "expire it in the Stripe Dashboard (Developers, API keys)".
	End string
}

// reference is what a provider knows a key by. It lies in the version's Object and is
// never secret.
type reference struct {
	// ID is the provider's id of the key; empty where it has none that could be learned.
	ID string `json:"id,omitempty"`
	// Owner is what the key belongs to and dies with, where it has one of its own: an
	// OpenAI service account.
	Owner string `json:"owner,omitempty"`
	// Expires is when the provider ends the key by itself; zero for never.
	Expires time.Time `json:"expires,omitzero"`
}

// created is a key that was just made: the only time that the provider shows it.
type created struct {
	Key       secret.String
	Reference reference
}

// found is a key that find came across.
type found struct {
	Name      string
	Reference reference
	Created   time.Time // zero if the provider does not say
}
