// Package store is the typed persistence of the engine: every document, its
// schema number, and every storage key.
//
//	config                        mount-wide settings
//	instance                      id and HMAC key of this mount         (seal wrap)
//	connection/<name>             how to reach a target                 (seal wrap)
//	role/<name>                   intent: what the operator wrote
//	state/<name>                  versions, pointer, rotation in flight, events
//	material/<name>/<version>     the only place of rotated secret bytes (seal wrap)
//	history/<name>/<time>-<id>    rotations that ended
//	incident/<id>                 records of emergencies
//	incident-role/<id>/<name>     what an emergency means for one role
//	channel/<name>                where people are told                 (seal wrap)
//	deliveries/<channel>          how a channel fares
//	outbox/<channel>/<time>-<id>  events on their way to a channel
//	incident-note/<id>/<number>   what a person added to a record
//	told/<id>/<channel>           what became of the messages about it
//	tombstone/<name>              what a deleted role leaves to be done
//
// Storage has no transactions: one Put is the only atomic step.
package store

import (
	"context"
	"fmt"

	"github.com/hashicorp/vault/sdk/logical"
)

// Storage is the handle the engine needs. Get returns nil for an absent key.
type Storage interface {
	Get(ctx context.Context, key string) ([]byte, error)
	Put(ctx context.Context, key string, value []byte) error
	Delete(ctx context.Context, key string) error
	List(ctx context.Context, prefix string) ([]string, error)
}

// FromLogical adapts Vault's storage.
func FromLogical(s logical.Storage) Storage { return logicalStorage{s} }

type logicalStorage struct{ s logical.Storage }

func (l logicalStorage) Get(ctx context.Context, key string) ([]byte, error) {
	entry, err := l.s.Get(ctx, key)
	if err != nil || entry == nil {
		return nil, err
	}
	return entry.Value, nil
}

func (l logicalStorage) Put(ctx context.Context, key string, value []byte) error {
	return l.s.Put(ctx, &logical.StorageEntry{Key: key, Value: value, SealWrap: sealWrapped(key)})
}

func (l logicalStorage) Delete(ctx context.Context, key string) error { return l.s.Delete(ctx, key) }

func (l logicalStorage) List(ctx context.Context, prefix string) ([]string, error) {
	return l.s.List(ctx, prefix)
}

// IOError is a failure of Vault's storage: it says nothing of a target outside.
type IOError struct {
	Op, Key string
	Err     error
}

// Error implements error.
func (e *IOError) Error() string { return fmt.Sprintf("%s %s: %s", e.Op, e.Key, e.Err) }

// Unwrap gives the cause.
func (e *IOError) Unwrap() error { return e.Err }

// Store reads and writes the documents.
type Store struct{ storage Storage }

// New makes a store over a storage handle.
func New(s Storage) *Store { return &Store{storage: s} }

func (s *Store) list(ctx context.Context, prefix string) ([]string, error) {
	keys, err := s.storage.List(ctx, prefix)
	if err != nil {
		return nil, &IOError{"list", prefix, err}
	}
	return keys, nil
}

func (s *Store) delete(ctx context.Context, key string) error {
	if err := s.storage.Delete(ctx, key); err != nil {
		return &IOError{"delete", key, err}
	}
	return nil
}
