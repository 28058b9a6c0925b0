package apikey

import (
	"strings"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// The strategies: how the next key comes into being.
const (
	strategyCreate  = "create"   // by a call, beside the one in use
	strategyInPlace = "in_place" // by a call that ends the one in use
	strategyByHand  = "by_hand"  // by a person, who hands it in
)

const (
	defaultDestroyAfter = 24 * time.Hour
	maxDestroyAfter     = 90 * 24 * time.Hour
	maxSoak             = 30 * 24 * time.Hour
)

var roleOptionSet = option.Set{
	{Name: "strategy", Type: option.String, Immutable: true, Help: "create: a call makes the next key beside the one in use. in_place: a call changes the one key, which ends the earlier one at once. by_hand: a person makes it and writes stage/:name. Default: create where the provider has a call for that, else by_hand."},
	{Name: keyName, Type: option.String, Secret: true, Help: "The key in use today: it becomes version 1. Without it a role with strategy by_hand waits for its first key, and one with create makes it."},
	{Name: "key_id", Type: option.String, Secret: true, Help: "The provider's id of key, where it cannot be found by itself."},
	{Name: "soak_period", Type: option.Duration, Default: int64(0), Help: "How long a verified key stands by as the secondary before it takes over, when it was staged or the schedule made it. A key that rotate/:name or an emergency makes takes over at once."},
	{Name: "auto_promote", Type: option.Bool, Default: true, Help: "Let a key that stands by take over by itself; else a person writes promote/:name."},
	{Name: "destroy_after", Type: option.Duration, Default: int64(defaultDestroyAfter / time.Second), Help: "How long a key that the provider refuses, but could still bring back for a rollback, is kept before it is ended for good."},
}

type roleOptions struct {
	Strategy     string            `json:"strategy"`
	Soak         rotation.Duration `json:"soak_period"`
	AutoPromote  bool              `json:"auto_promote"`
	DestroyAfter rotation.Duration `json:"destroy_after"`
}

func decodeRole(r *rotator.Role) (*roleOptions, error) {
	var o roleOptions
	if err := roleOptionSet.Decode(r.Values, &o); err != nil {
		return nil, err
	}
	return &o, nil
}

// optionsOf are a stored role's options, which were checked when it was written.
func optionsOf(r *rotator.Role) roleOptions {
	if o, err := decodeRole(r); err == nil {
		return *o
	}
	return roleOptions{}
}

// Defaults implements rotator.Defaulter: a role keeps the strategy it began with.
func (*Rotator) Defaults(r *rotator.Role) (option.Values, error) {
	if optionsOf(r).Strategy != "" {
		return nil, nil
	}
	can, err := abilitiesOf(r)
	switch {
	case err != nil:
		return nil, err
	case can.Create:
		return option.Values{"strategy": strategyCreate}, nil
	default:
		return option.Values{"strategy": strategyByHand}, nil
	}
}

// CheckRole implements rotator.Rotator.
func (*Rotator) CheckRole(before, after *rotator.Role) error {
	o, err := decodeRole(after)
	if err != nil {
		return err
	}
	can, err := abilitiesOf(after)
	if err != nil {
		return err
	}
	switch {
	case o.Strategy != strategyCreate && o.Strategy != strategyInPlace && o.Strategy != strategyByHand:
		return fault.Field("strategy", "must be %s, %s or %s", strategyCreate, strategyInPlace, strategyByHand)
	case o.Strategy == strategyCreate && !can.Create:
		return fault.Field("strategy", "cannot be %s: connections of type %s have no call that makes a key, or none is defined; use %s", strategyCreate, after.ConnectionType, instead(can))
	case o.Strategy == strategyInPlace && !can.Replace:
		return fault.Field("strategy", "cannot be %s: connections of type %s have no call that changes a key, or none is defined; use %s", strategyInPlace, after.ConnectionType, instead(can))
	case o.Soak.Std() < 0 || o.Soak.Std() > maxSoak:
		return fault.Field("soak_period", "must be from 0 to %s", maxSoak)
	case o.Soak.Std() > 0 && o.Soak.Std() >= after.Interval:
		return fault.Field("soak_period", "is %s and must be shorter than the time between rotations, %s", o.Soak, after.Interval)
	case o.Strategy == strategyInPlace && (o.Soak > 0 || !o.AutoPromote):
		return fault.Field("soak_period", "and auto_promote=false need a second key, and %s has one", strategyInPlace)
	case o.DestroyAfter.Std() < 0 || o.DestroyAfter.Std() > maxDestroyAfter:
		return fault.Field("destroy_after", "must be from 0 to %s", maxDestroyAfter)
	}
	return checkHanded(before, after, o)
}

func instead(can abilities) string {
	var ways []string
	if can.Create {
		ways = append(ways, strategyCreate)
	}
	if can.Replace {
		ways = append(ways, strategyInPlace)
	}
	return strings.Join(append(ways, strategyByHand), " or ")
}

// checkHanded looks at a key that comes with the write of a new role.
func checkHanded(before, after *rotator.Role, o *roleOptions) error {
	key, given := after.Secrets[keyName]
	_, id := after.Secrets["key_id"]
	switch {
	case before != nil:
		return nil // it is not used: the engine says so
	case given && key.Empty():
		return fault.Field(keyName, "is empty: give the key in use today, or leave it out")
	case id && !given:
		return fault.Field("key_id", "needs key: it is the id of that")
	case !given && o.Strategy == strategyInPlace:
		return fault.Field(keyName, "is required with strategy %s: the key that is to be changed", strategyInPlace)
	}
	return nil
}

// Soak implements rotator.Soaker.
func (*Rotator) Soak(r *rotator.Role) rotator.Soak {
	o := optionsOf(r)
	return rotator.Soak{Period: o.Soak.Std(), Auto: o.AutoPromote, Ahead: o.Strategy == strategyCreate}
}

// InPlace implements rotator.InPlace.
func (*Rotator) InPlace(r *rotator.Role) bool { return optionsOf(r).Strategy == strategyInPlace }

// PrepareIsIrreversible implements rotator.Irreversible: the earlier key is gone.
func (*Rotator) PrepareIsIrreversible(r *rotator.Role) bool {
	return optionsOf(r).Strategy == strategyInPlace
}

// Imports implements rotator.Importer.
func (*Rotator) Imports(r *rotator.Role) bool {
	_, given := r.Secrets[keyName]
	return given
}

// Mints implements rotator.Minter.
func (*Rotator) Mints(r *rotator.Role) bool { return optionsOf(r).Strategy != strategyByHand }

// Stages implements rotator.Stager.
func (*Rotator) Stages(r *rotator.Role) string {
	if optionsOf(r).Strategy == strategyCreate {
		return "its keys are made by a call: write rotate/" + r.Name
	}
	return ""
}

// abilitiesOf tells what the provider of a role's connection can do.
func abilitiesOf(r *rotator.Role) (abilities, error) {
	for _, k := range kinds {
		if k.typ == r.ConnectionType {
			return k.abilities(r.ConnectionValues)
		}
	}
	return abilities{}, fault.New(fault.Internal, "role %s has a connection of type %q, which is none of API keys", r.Name, r.ConnectionType)
}
