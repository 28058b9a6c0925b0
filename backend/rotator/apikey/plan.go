package apikey

import (
	"context"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/mark"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// Plan implements rotator.Rotator: a key that is handed in is the candidate; one that a
// call makes has a name so far; and a person is told where to make one.
func (r *Rotator) Plan(ctx context.Context, t *rotator.Target) (*rotator.Candidate, error) {
	if _, handed := t.Role.Secrets[keyName]; handed {
		return r.Stage(ctx, t)
	}
	if optionsOf(t.Role).Strategy == strategyByHand {
		c, err := open(t)
		if err != nil {
			return nil, err
		}
		return nil, &rotator.WaitsForPerson{What: c.byHand().Make + ", and write stage/" + t.Role.Name + " with it"}
	}
	return &rotator.Candidate{Identifier: t.MarkKey.Name(t.Mark)}, nil
}

// Mint implements rotator.Minter.
func (*Rotator) Mint(ctx context.Context, t *rotator.Target) (*rotator.Candidate, error) {
	c, err := open(t)
	if err != nil {
		return nil, err
	}
	var made *created
	can, inPlace := c.abilities(), optionsOf(t.Role).Strategy == strategyInPlace
	switch {
	case inPlace && !can.Replace, !inPlace && !can.Create:
		return nil, fault.New(fault.Target, "connection %s has no call any more that makes a key, as strategy %s needs: see its definition", t.Role.Connection, optionsOf(t.Role).Strategy)
	case inPlace:
		made, err = replaceKey(ctx, c, t)
	default:
		made, err = c.create(ctx, t.MarkKey.Name(t.Mark))
	}
	if err != nil {
		return nil, err
	}
	return candidate(made.Key, object{Reference: made.Reference}, c.abilities())
}

func replaceKey(ctx context.Context, c *Connection, t *rotator.Target) (*created, error) {
	if t.Current == nil {
		return nil, fault.New(fault.Conflict, "role %s has no current key that could be changed in place: hand one in with stage/%s", t.Role.Name, t.Role.Name)
	}
	o, err := objectOf(&t.Current.Version)
	if err != nil {
		return nil, err
	}
	return c.replace(ctx, o.Reference)
}

// Stage implements rotator.Stager, and takes over the key in use today.
func (*Rotator) Stage(ctx context.Context, t *rotator.Target) (*rotator.Candidate, error) {
	c, err := open(t)
	if err != nil {
		return nil, err
	}
	key, id := t.Role.Secrets[keyName], t.Role.Secrets["key_id"].Reveal()
	if err := c.checkKey(key); err != nil {
		return nil, err
	}
	o := object{Handed: true}
	switch {
	case c.abilities().Identify:
		if o.Reference, err = c.identify(ctx, key, id); err != nil {
			return nil, err
		}
	case id != "": // whoever gives it could name anybody's key, which we would end
		return nil, fault.Field("key_id", "cannot be checked at %s: leave it out, and end the key by hand when its time is over", c.title())
	}
	return candidate(key, o, c.abilities())
}

// Survey implements rotator.Surveyor.
func (*Rotator) Survey(ctx context.Context, t *rotator.Target) (seen []rotator.Sighting, err error) {
	c, err := open(t)
	if err != nil {
		return nil, err
	}
	if c.abilities().Create {
		keys, err := c.find(ctx, mark.NamePrefix(t.Role.Name))
		if err != nil {
			return nil, err
		}
		for _, key := range keys {
			if sight, marked := sighting(t, key.Name); marked {
				seen = append(seen, sight)
			}
		}
	}
	if t.Current != nil && !shows(t) {
		v := t.Current.Version
		seen = append(seen, rotator.Sighting{
			Mark:       mark.Mark{Instance: t.Mark.Instance, Role: t.Role.Name, Version: v.Number, RotationID: v.RotationID},
			Identifier: v.Identifier, Authentic: true,
		})
	}
	return seen, nil
}

// shows tells whether the current key has to be in the list under our mark: one that was
// just made may appear late.
func shows(t *rotator.Target) bool {
	o, err := objectOf(&t.Current.Version)
	return err == nil && !o.Handed && optionsOf(t.Role).Strategy == strategyCreate && t.Now.Sub(t.Current.Version.CreatedTime) >= searchFor
}

func sighting(t *rotator.Target, name string) (rotator.Sighting, bool) {
	m, mac, err := mark.ParseName(name)
	if err != nil || m.Role != t.Role.Name {
		return rotator.Sighting{}, false
	}
	authentic := t.MarkKey.VerifyName(m, mac)
	if m.Instance == t.Mark.ShortInstance() {
		m.Instance = t.Mark.Instance
	}
	return rotator.Sighting{Mark: m, Identifier: name, Authentic: authentic}, true
}
