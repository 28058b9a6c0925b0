package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// An application uses its credential as any application should: it reads it from Vault, reads it
// again when its ttl has run out, and opens connections with what it read last. It opens one every
// 50 ms, so that a credential that fails for a moment is noticed, and keeps one besides.
type application struct {
	vault *api.Client
	roots *x509.CertPool

	mu      sync.Mutex
	current int         // the version it uses
	logins  map[int]int // successful logins by version
	refused int         // logins that the server refused
	failed  error       // what ended it, if anything did
	done    chan struct{}
}

// a credential is an answer of rotation/creds/database.
type credential struct {
	version int
	ttl     time.Duration
	url     string
}

// startApplication runs an application until the context ends.
func startApplication(ctx context.Context, client *api.Client, caPEM string) (*application, error) {
	a := &application{vault: client, roots: x509.NewCertPool(), logins: map[int]int{}, done: make(chan struct{})}
	if !a.roots.AppendCertsFromPEM([]byte(caPEM)) {
		return nil, errors.New("the database's CA is not a certificate")
	}
	go func() {
		defer close(a.done)
		err := a.run(ctx)
		a.mu.Lock()
		defer a.mu.Unlock()
		if ctx.Err() == nil {
			a.failed = err
		}
	}()
	return a, nil
}

func (a *application) run(ctx context.Context) error {
	pause := time.NewTicker(50 * time.Millisecond)
	defer pause.Stop()
	for {
		read, err := a.read(ctx)
		if err != nil {
			return err
		}
		if err := a.use(ctx, read, pause.C); err != nil {
			return err
		}
	}
}

// use works with a credential until its ttl has run out, or until the server refuses it: then an
// application does best to ask Vault at once.
func (a *application) use(ctx context.Context, c credential, pause <-chan time.Time) error {
	until := time.Now().Add(c.ttl)
	kept, err := a.login(ctx, c)
	if isRefusal(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer kept.Close(context.WithoutCancel(ctx))
	for time.Now().Before(until) {
		conn, err := a.login(ctx, c)
		if isRefusal(err) {
			return nil
		}
		if err != nil {
			return err
		}
		_, err = conn.Exec(ctx, "INSERT INTO orders DEFAULT VALUES")
		_ = conn.Close(context.WithoutCancel(ctx)) // what was inserted is committed
		if err != nil && !wasEnded(err) {
			return err
		}
		select {
		case <-pause:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (a *application) read(ctx context.Context) (credential, error) {
	answer, err := a.vault.Logical().ReadWithContext(ctx, "rotation/creds/database")
	if err != nil {
		return credential{}, fmt.Errorf("the application reads its credential: %w", err)
	}
	c := credential{}
	c.url, _ = answer.Data["connection_url"].(string)
	c.version = number(answer.Data["version"])
	c.ttl = time.Duration(number(answer.Data["ttl"])) * time.Second
	if c.url == "" || c.version == 0 || c.ttl <= 0 {
		return credential{}, errors.New("the application's credential lacks connection_url, version or ttl")
	}
	return c, nil
}

func (a *application) login(ctx context.Context, c credential) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(c.url)
	if err != nil {
		return nil, err
	}
	config.RuntimeParams["application_name"] = appName
	if config.TLSConfig == nil {
		return nil, errors.New("the connection_url does not ask for TLS")
	}
	config.TLSConfig.RootCAs = a.roots
	conn, err := pgx.ConnectConfig(ctx, config)
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case isRefusal(err):
		a.refused++
	case err == nil:
		a.logins[c.version]++
		a.current = c.version
	}
	return conn, err
}

// isRefusal tells whether the server refused the user: wrong password, or no such login.
func isRefusal(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && (pgErr.Code == "28P01" || pgErr.Code == "28000")
}

// wasEnded tells whether the session was ended under the application, as an emergency does.
func wasEnded(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.Code == "57P01" || pgconn.SafeToRetry(err)
}

// counts are what an application has seen.
type counts struct {
	current int
	logins  map[int]int
	refused int
}

// counts returns what it has seen so far, and an error when it has ended.
func (a *application) counts() (counts, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := counts{current: a.current, refused: a.refused, logins: map[int]int{}}
	for version, n := range a.logins {
		c.logins[version] = n
	}
	return c, a.failed
}

// String renders the counts as "812 logins (v1: 500, v2: 312), 0 refused".
func (c counts) String() string {
	total := 0
	var parts []string
	for version, n := range c.logins {
		total += n
		parts = append(parts, fmt.Sprintf("v%d: %d", version, n))
	}
	sort.Strings(parts)
	return fmt.Sprintf("%d logins (%s), %d refused", total, strings.Join(parts, ", "), c.refused)
}

// number reads a JSON number as Vault's client decodes it.
func number(v any) int {
	n, ok := v.(json.Number)
	if !ok {
		return 0
	}
	i, err := n.Int64()
	if err != nil {
		return 0
	}
	return int(i)
}
