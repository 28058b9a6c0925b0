package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"
)

// traffic is an issuer, and a verifier of all that it issues.
type traffic struct {
	vault    *api.Client
	verifier *verifier
	held     []issued // that have not expired

	mu     sync.Mutex
	counts checks
	last   string // the newest token
	failed error
	done   chan struct{}
}

// issued is a token that somebody holds.
type issued struct {
	token   string
	version int
	expires time.Time
}

// checks are what a verifier has seen.
type checks struct {
	tokens  map[int]int // issued, by version
	passed  int
	old     int // checks of tokens of version 1 since version 2 signs
	fetches int
}

// String renders the counts. Of what was refused there is nothing to count: it ends the traffic.
func (c checks) String() string {
	return fmt.Sprintf("%d tokens (v1: %d, v2: %d), checked %d times in all, none refused; the keys were fetched %d times",
		c.tokens[1]+c.tokens[2], c.tokens[1], c.tokens[2], c.passed, c.fetches)
}

// startTraffic starts the issuer with a token that may sign and nothing else.
func (s *stage) startTraffic(ctx context.Context) (*traffic, func(), error) {
	client, err := s.clientWith(ctx, issuerName)
	if err != nil {
		return nil, nil, err
	}
	t := &traffic{
		vault: client, verifier: &verifier{address: s.vault.Address()}, done: make(chan struct{}),
		counts: checks{tokens: map[int]int{}},
	}
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer close(t.done)
		err := t.run(ctx)
		t.mu.Lock()
		defer t.mu.Unlock()
		if ctx.Err() == nil {
			t.failed = err
		}
	}()
	return t, func() { cancel(); <-t.done }, nil
}

func (t *traffic) run(ctx context.Context) error {
	pause := time.NewTicker(100 * time.Millisecond)
	defer pause.Stop()
	for {
		one, err := t.sign(ctx)
		if err != nil {
			return err
		}
		t.held = append(t.held, one)
		if err := t.checkAll(ctx, one); err != nil {
			return err
		}
		select {
		case <-pause.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (t *traffic) sign(ctx context.Context) (issued, error) {
	answer, err := t.vault.Logical().WriteWithContext(ctx, "rotation/sign/session", map[string]any{
		"claims": map[string]any{"sub": "user-1", "aud": "crm"},
	})
	if err != nil {
		return issued{}, fmt.Errorf("the issuer signs a token: %w", err)
	}
	one := issued{version: number(answer.Data["version"])}
	one.token, _ = answer.Data["token"].(string)
	text, _ := answer.Data["expire_time"].(string)
	one.expires, err = time.Parse(time.RFC3339, text)
	if err != nil || one.token == "" {
		return issued{}, errors.New("the issuer's answer lacks token or expire_time")
	}
	return one, nil
}

// checkAll lets the verifier look at every token that has not expired.
func (t *traffic) checkAll(ctx context.Context, newest issued) error {
	var left []issued
	old := 0
	for _, one := range t.held {
		if time.Until(one.expires) < time.Second { // it may expire while it is looked at
			continue
		}
		if err := t.verifier.check(ctx, one.token); err != nil {
			return fmt.Errorf("the verifier refused a token of version %d: %w", one.version, err)
		}
		left = append(left, one)
		if one.version < newest.version {
			old++
		}
	}
	t.held = left
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = newest.token
	t.counts.tokens[newest.version]++
	t.counts.passed += len(left)
	t.counts.old += old
	t.counts.fetches = t.verifier.fetches
	return nil
}

// seen returns what the verifier has seen so far, and an error when it refused something.
func (t *traffic) seen() (checks, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.counts
	c.tokens = maps.Clone(c.tokens)
	return c, t.failed
}

func (t *traffic) newest() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.last
}
