package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/fakeapi"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/fakechannels"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/vaulttest"
)

// Names of the demo's world.
const (
	database   = "intelliflow"
	group      = "intelliflow_app"
	admin      = "vault_admin"
	appName    = "orders-api"
	issuerName = "issuer"
	callerName = "assistant"
	cardsName  = "cards-api"
	cardsAdmin = "vault_cards"
)

// appPolicy is all that the application may do in Vault.
const appPolicy = `path "rotation/creds/database" {
  capabilities = ["read"]
}
`

// issuerPolicy is all that whoever issues tokens may do in Vault.
const issuerPolicy = `path "rotation/sign/session" {
  capabilities = ["update"]
}
`

// callerPolicy is all that the application that calls an API may do in Vault.
const callerPolicy = `path "rotation/creds/llm" {
  capabilities = ["read"]
}
`

// cardsPolicy is all that the application that keeps cards may do in Vault.
const cardsPolicy = `path "rotation/encrypt/cards" {
  capabilities = ["update"]
}
path "rotation/decrypt/cards" {
  capabilities = ["update"]
}
`

// A stage is the two servers, the stand-ins of providers and of Slack, and the folder in which the commands run.
type stage struct {
	postgres *pgtest.Server
	vault    *vaulttest.Server
	openai   *fakeapi.OpenAI
	stripe   *fakeapi.Stripe
	slack    *fakechannels.Slack // nil until people are told
	dir      string
	leak     string // id of the incident of the leaked password

	cardsPassword string // of the application that keeps cards, in the database
}

// raise starts the servers and prepares the database as its administrator would.
func raise(ctx context.Context, say *narrator) (_ *stage, err error) {
	s := &stage{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.strike())
		}
	}()
	started := time.Now()
	if s.dir, err = os.MkdirTemp("", "rotation-demo-"); err != nil {
		return nil, err
	}
	if s.postgres, err = pgtest.Start(ctx, pgtest.Options{}); err != nil {
		return nil, fmt.Errorf("start PostgreSQL: %w", err)
	}
	version, err := s.postgres.QueryString(ctx, "postgres", "SHOW server_version")
	if err != nil {
		return nil, err
	}
	say.text("PostgreSQL %s listens on %s:%d, with TLS and SCRAM-SHA-256.", version, s.postgres.Host(), s.postgres.Port())

	plugin, err := vaulttest.BuildPlugin(ctx)
	if err != nil {
		return nil, err
	}
	if s.vault, err = vaulttest.Start(ctx, vaulttest.Options{Plugin: plugin}); err != nil {
		return nil, fmt.Errorf("start Vault: %w", err)
	}
	say.text("Vault listens on %s; the plugin is built and registered.", s.vault.Address())
	if err := s.prepareDatabase(ctx); err != nil {
		return nil, fmt.Errorf("prepare the database: %w", err)
	}
	if err := s.prepareProviders(); err != nil {
		return nil, err
	}
	say.text("The database %q has a group role %q that owns a table, and an admin user %q.", database, group, admin)
	say.text("Ready after %.0f seconds.", time.Since(started).Seconds())
	return s, nil
}

// prepareDatabase does what a database's owner does once: a group that owns what the application
// uses, and an admin user for Vault who may make members of that group, and is no superuser.
func (s *stage) prepareDatabase(ctx context.Context) error {
	password, cardsAdminPassword := rand.Text(), rand.Text()
	s.cardsPassword = rand.Text()
	if err := s.postgres.CreateDatabase(ctx, database, ""); err != nil {
		return err
	}
	err := s.postgres.Exec(ctx, database,
		fmt.Sprintf("CREATE ROLE %s NOLOGIN", group),
		"CREATE TABLE orders (id bigserial PRIMARY KEY, placed timestamptz NOT NULL DEFAULT now())",
		fmt.Sprintf("ALTER TABLE orders OWNER TO %s", group),
		fmt.Sprintf("CREATE ROLE %s LOGIN CREATEROLE PASSWORD '%s'", admin, password),
		fmt.Sprintf("GRANT %s TO %s WITH ADMIN OPTION", group, admin),
		fmt.Sprintf("GRANT pg_signal_backend, pg_read_all_stats TO %s", admin),
	)
	if err != nil {
		return err
	}
	if err := s.prepareCards(ctx, s.cardsPassword, cardsAdminPassword); err != nil {
		return err
	}
	for name, content := range map[string]string{
		"admin-password.txt":       password,
		"cards-admin-password.txt": cardsAdminPassword,
		"postgres-ca.pem":          s.postgres.CAPEM(),
		appName + ".hcl":           appPolicy,
		issuerName + ".hcl":        issuerPolicy,
		callerName + ".hcl":        callerPolicy,
		cardsName + ".hcl":         cardsPolicy,
	} {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(content), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// prepareProviders starts the stand-ins, and does what a person does at a provider: make the admin
// key, and the keys that no call makes.
func (s *stage) prepareProviders() error {
	s.openai, s.stripe = fakeapi.NewOpenAI(), fakeapi.NewStripe()
	first, _ := s.stripe.MakeByHand("payments")
	second, _ := s.stripe.MakeByHand("payments, the next one")
	for name, content := range map[string]string{
		"openai-admin-key.txt": s.openai.AdminKey(),
		"stripe-key-1.txt":     first,
		"stripe-key-2.txt":     second,
	} {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(content), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// strike stops everything and removes it.
func (s *stage) strike() error {
	var errs []error
	if s.vault != nil {
		errs = append(errs, s.vault.Close())
	}
	if s.openai != nil {
		s.openai.Close()
		s.stripe.Close()
	}
	if s.slack != nil {
		s.slack.Close()
	}
	if s.postgres != nil {
		errs = append(errs, s.postgres.Stop())
	}
	return errors.Join(append(errs, os.RemoveAll(s.dir))...)
}
