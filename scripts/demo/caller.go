package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"
)

// A caller is an application that calls a provider's API: with its primary key, every 50 ms. It
// reads the key again when its ttl has run out, and at once when the key is refused.
type caller struct {
	vault *api.Client
	url   string

	mu     sync.Mutex
	calls  calls
	failed error
	done   chan struct{}
}

// calls are what a caller has seen, by the version it called with.
type calls struct {
	current           int
	accepted, refused map[int]int
}

func (c calls) allRefused() int { return sum(c.refused) }

// String renders the calls as "812 calls (v1: 500, v2: 312), 0 refused".
func (c calls) String() string {
	var parts []string
	for _, version := range slices.Sorted(maps.Keys(c.accepted)) {
		parts = append(parts, fmt.Sprintf("v%d: %d", version, c.accepted[version]))
	}
	return fmt.Sprintf("%d calls (%s), %d refused", sum(c.accepted), strings.Join(parts, ", "), c.allRefused())
}

func sum(counts map[int]int) int {
	total := 0
	for _, n := range counts {
		total += n
	}
	return total
}

// keyPair is an answer of rotation/creds/llm.
type keyPair struct {
	version            int
	ttl                time.Duration
	primary, secondary string
}

func readPair(ctx context.Context, client *api.Client) (keyPair, error) {
	answer, err := client.Logical().ReadWithContext(ctx, "rotation/creds/llm")
	if err != nil {
		return keyPair{}, fmt.Errorf("read the API key: %w", err)
	}
	if answer == nil {
		return keyPair{}, errors.New("there is no API key to read")
	}
	p := keyPair{version: number(answer.Data["version"]), ttl: time.Duration(number(answer.Data["ttl"])) * time.Second}
	p.primary, _ = answer.Data["primary_key"].(string)
	p.secondary, _ = answer.Data["secondary_key"].(string) // there may be none
	if p.primary == "" || p.version == 0 || p.ttl <= 0 {
		return keyPair{}, errors.New("the API key's answer lacks primary_key, version or ttl")
	}
	return p, nil
}

// startCaller starts the application with a token that may read its key and nothing else.
func (s *stage) startCaller(ctx context.Context) (*caller, func(), error) {
	client, err := s.clientWith(ctx, callerName)
	if err != nil {
		return nil, nil, err
	}
	c := &caller{
		vault: client, url: s.openai.BaseURL() + "/models", done: make(chan struct{}),
		calls: calls{accepted: map[int]int{}, refused: map[int]int{}},
	}
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer close(c.done)
		err := c.run(ctx)
		c.mu.Lock()
		defer c.mu.Unlock()
		if ctx.Err() == nil {
			c.failed = err
		}
	}()
	return c, func() { cancel(); <-c.done }, nil
}

func (c *caller) run(ctx context.Context) error {
	pause := time.NewTicker(50 * time.Millisecond)
	defer pause.Stop()
	for {
		read, err := readPair(ctx, c.vault)
		if err != nil {
			return err
		}
		until := time.Now().Add(read.ttl)
		for accepted := true; accepted && time.Now().Before(until); {
			if accepted, err = c.call(ctx, read); err != nil {
				return err
			}
			select {
			case <-pause.C:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

// call makes one call and counts it. Any answer but yes and "not with this key" ends the demo.
func (c *caller) call(ctx context.Context, key keyPair) (accepted bool, err error) {
	a, err := ask(ctx, c.url, key.primary)
	if err != nil {
		return false, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch a.code {
	case http.StatusOK:
		c.calls.accepted[key.version]++
		c.calls.current = key.version
		return true, nil
	case http.StatusUnauthorized:
		c.calls.refused[key.version]++
		return false, nil
	default:
		return false, fmt.Errorf("the application's call was answered with %s", a.status)
	}
}

// counts returns what it has seen so far, and an error when it has ended.
func (c *caller) counts() (calls, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return calls{
		current: c.calls.current, accepted: maps.Clone(c.calls.accepted), refused: maps.Clone(c.calls.refused),
	}, c.failed
}

// untilCalls waits for the application to have seen something.
func (s *stage) untilCalls(ctx context.Context, c *caller, what string, holds func(calls) bool) error {
	return s.poll(ctx, what, func() (bool, error) {
		seen, err := c.counts()
		return holds(seen), err
	})
}

// answered is what a provider says to a call.
type answered struct {
	code         int
	status, body string
}

// ask calls a provider with a key.
func ask(ctx context.Context, url, key string) (answered, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return answered{}, err
	}
	req.Header.Set("Authorization", "Bearer "+key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return answered{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return answered{code: resp.StatusCode, status: resp.Status, body: strings.TrimSpace(string(body))}, err
}
