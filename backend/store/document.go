package store

import (
	"context"
	"encoding/json"
	"fmt"
)

// upgrade turns the body of a document of one schema number into the next.
type upgrade func(body json.RawMessage) (json.RawMessage, error)

// schema is the form of one kind of document. Its number is 1 plus the number
// of upgrades: upgrades[0] reads what schema 1 wrote.
type schema struct {
	what     string
	upgrades []upgrade
}

func (s schema) number() int { return 1 + len(s.upgrades) }

// envelope is how every document lies in storage.
type envelope struct {
	Schema int             `json:"schema"`
	Body   json.RawMessage `json:"body"`
}

// NewerSchemaError is a document that a later release of the plugin wrote.
type NewerSchemaError struct {
	Key         string
	Found, Know int
}

// Error implements error.
func (e *NewerSchemaError) Error() string {
	return fmt.Sprintf("%s was written by a newer release of this plugin (schema %d, this release knows up to %d): run that release again, or restore a backup made before the upgrade", e.Key, e.Found, e.Know)
}

// read fills out from the document at key; found is false when there is none.
func (s *Store) read(ctx context.Context, key string, form schema, out any) (found bool, err error) {
	raw, err := s.storage.Get(ctx, key)
	if err != nil {
		return false, &IOError{"read", key, err}
	}
	if raw == nil {
		return false, nil
	}
	var env envelope
	if err := json.Unmarshal(raw, &env); err != nil {
		return false, fmt.Errorf("decode %s: %w", key, err)
	}
	if env.Schema > form.number() {
		return false, &NewerSchemaError{Key: key, Found: env.Schema, Know: form.number()}
	}
	if env.Schema < 1 {
		return false, fmt.Errorf("decode %s: no schema number", key)
	}
	for _, up := range form.upgrades[env.Schema-1:] {
		if env.Body, err = up(env.Body); err != nil {
			return false, fmt.Errorf("upgrade %s (%s): %w", key, form.what, err)
		}
	}
	if err := json.Unmarshal(env.Body, out); err != nil {
		return false, fmt.Errorf("decode %s (%s): %w", key, form.what, err)
	}
	return true, nil
}

func (s *Store) write(ctx context.Context, key string, form schema, doc any) error {
	body, err := json.Marshal(doc)
	if err != nil {
		return fmt.Errorf("encode %s (%s): %w", key, form.what, err)
	}
	raw, err := json.Marshal(envelope{Schema: form.number(), Body: body})
	if err != nil {
		return fmt.Errorf("encode %s (%s): %w", key, form.what, err)
	}
	if err := s.storage.Put(ctx, key, raw); err != nil {
		return &IOError{"write", key, err}
	}
	return nil
}
