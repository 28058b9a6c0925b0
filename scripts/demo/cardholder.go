package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/jackc/pgx/v5"
)

// cards is an application that keeps card numbers, encrypted by Vault. It knows what each
// row holds: whatever does not decrypt, or decrypts to something else, ends the demo.
type cards struct {
	vault *api.Client
	db    *pgx.Conn
	want  map[int]string // by id
	turn  int

	mu     sync.Mutex
	work   cardWork
	failed error
	done   chan struct{}
}

// cardWork is what it has done, by the version that made what it read or wrote.
type cardWork struct{ read, written map[int]int }

// String renders the work. Of what failed there is nothing to count: it ends the application.
func (w cardWork) String() string {
	return fmt.Sprintf("%d cards read (%s) and %d written (%s), no error, and each was what had been stored",
		sum(w.read), byVersion(w.read), sum(w.written), byVersion(w.written))
}

func byVersion(counts map[int]int) string {
	var parts []string
	for _, version := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("v%d: %d", version, counts[version]))
	}
	return strings.Join(parts, ", ")
}

// startCards fills the table, and starts the application with a token that may encrypt and
// decrypt, and nothing else.
func (s *stage) startCards(ctx context.Context) (*cards, func(), error) {
	client, err := s.clientWith(ctx, cardsName)
	if err != nil {
		return nil, nil, err
	}
	c := &cards{
		vault: client, want: map[int]string{}, done: make(chan struct{}),
		work: cardWork{read: map[int]int{}, written: map[int]int{}},
	}
	if c.db, err = s.postgres.Connect(ctx, cardsName, s.cardsPassword, database); err != nil {
		return nil, nil, err
	}
	if err := c.fill(ctx); err != nil {
		return nil, nil, errors.Join(err, c.db.Close(ctx))
	}
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer close(c.done)
		defer c.db.Close(context.WithoutCancel(ctx))
		err := c.run(ctx)
		c.mu.Lock()
		defer c.mu.Unlock()
		if ctx.Err() == nil {
			c.failed = err
		}
	}()
	return c, func() { cancel(); <-c.done }, nil
}

// fill stores the first numbers, encrypted by batches.
func (c *cards) fill(ctx context.Context) error {
	const batch = 1000
	for from := 1; from <= cardRows; from += batch {
		var items []any
		for id := from; id < from+batch; id++ {
			c.want[id] = cardNumber(id, 0)
			items = append(items, map[string]any{"plaintext": encoded(c.want[id])})
		}
		answer, err := c.vault.Logical().WriteWithContext(ctx, "rotation/encrypt/cards", map[string]any{"batch_input": items})
		if err != nil {
			return fmt.Errorf("encrypt cards: %w", err)
		}
		results, _ := answer.Data["batch_results"].([]any)
		if len(results) != batch {
			return fmt.Errorf("%d cards were encrypted, and should have been %d", len(results), batch)
		}
		var rows [][]any
		for i, result := range results {
			one, _ := result.(map[string]any)
			rows = append(rows, []any{from + i, one["ciphertext"]})
		}
		if _, err := c.db.CopyFrom(ctx, pgx.Identifier{"billing", "cards"}, []string{"id", "number"}, pgx.CopyFromRows(rows)); err != nil {
			return fmt.Errorf("store cards: %w", err)
		}
	}
	return nil
}

func (c *cards) run(ctx context.Context) error {
	pause := time.NewTicker(20 * time.Millisecond)
	defer pause.Stop()
	for {
		c.turn++
		do := c.check
		if c.turn%4 == 0 {
			do = c.write
		}
		if err := do(ctx, c.turn*37%cardRows+1); err != nil {
			return err
		}
		select {
		case <-pause.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// check reads a card, and compares it with what was stored.
func (c *cards) check(ctx context.Context, id int) error {
	var ciphertext string
	if err := c.db.QueryRow(ctx, "SELECT number FROM billing.cards WHERE id = $1", id).Scan(&ciphertext); err != nil {
		return fmt.Errorf("read card %d: %w", id, err)
	}
	answer, err := c.vault.Logical().WriteWithContext(ctx, "rotation/decrypt/cards", map[string]any{"ciphertext": ciphertext})
	if err != nil {
		return fmt.Errorf("decrypt card %d: %w", id, err)
	}
	text, _ := answer.Data["plaintext"].(string)
	if plain, err := base64.StdEncoding.DecodeString(text); err != nil || string(plain) != c.want[id] {
		return fmt.Errorf("card %d is not what was stored", id)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.work.read[versionOf(ciphertext)]++
	return nil
}

// write stores another number.
func (c *cards) write(ctx context.Context, id int) error {
	text := cardNumber(id, c.turn)
	answer, err := c.vault.Logical().WriteWithContext(ctx, "rotation/encrypt/cards", map[string]any{"plaintext": encoded(text)})
	if err != nil {
		return fmt.Errorf("encrypt card %d: %w", id, err)
	}
	ciphertext, _ := answer.Data["ciphertext"].(string)
	if _, err := c.db.Exec(ctx, "UPDATE billing.cards SET number = $2 WHERE id = $1", id, ciphertext); err != nil {
		return fmt.Errorf("write card %d: %w", id, err)
	}
	c.want[id] = text
	c.mu.Lock()
	defer c.mu.Unlock()
	c.work.written[versionOf(ciphertext)]++
	return nil
}

// seen returns what it has done so far, and an error when it has ended.
func (c *cards) seen() (cardWork, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return cardWork{read: maps.Clone(c.work.read), written: maps.Clone(c.work.written)}, c.failed
}

// untilCards waits for the application to have done something.
func (s *stage) untilCards(ctx context.Context, c *cards, what string, holds func(cardWork) bool) error {
	return s.poll(ctx, what, func() (bool, error) {
		seen, err := c.seen()
		return holds(seen), err
	})
}
