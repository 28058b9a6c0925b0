package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/hashicorp/vault/api"
)

// setUp is what an administrator does once: mount, connection, role.
func setUp(ctx context.Context, say *narrator, s *stage) error {
	say.heading("Mount the engine, name the database, write a role")
	say.text(`The connection holds an admin user who may make logins in one group, and is no superuser.
The role says what to rotate, and how often. Writing it makes version 1 before it answers.
`)
	for _, args := range [][]string{
		{"secrets", "enable", "-path=rotation", "vault-plugin-secrets-rotation"},
		{
			"write", "rotation/connections/main", "type=postgresql",
			"connection_url=" + s.postgres.TemplateURL(database),
			"tls_ca=@postgres-ca.pem", "username=" + admin, "password=@admin-password.txt", "allowed_groups=" + group,
		},
		{
			"write", "rotation/roles/database", "type=postgresql", "connection=main", "member_of=" + group,
			"rotation_period=30d", "grace_period=20s",
		},
	} {
		if _, err := say.vault(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

// tour shows the product step by step.
func tour(ctx context.Context, say *narrator, s *stage) error {
	if err := setUp(ctx, say, s); err != nil {
		return err
	}

	say.heading("An application reads its credential")
	say.text(`No lease, nothing to renew: the application reads again when the ttl has run out. (Passwords are
masked in this text only.) Its policy lets it read this one path and nothing else.
`)
	if _, err := say.vault(ctx, "read", "rotation/creds/database"); err != nil {
		return err
	}
	if _, err := say.vault(ctx, "policy", "write", appName, appName+".hcl"); err != nil {
		return err
	}
	app, stop, err := s.startApplication(ctx)
	if err != nil {
		return err
	}
	defer stop()
	if err := s.until(ctx, app, "the application to log in", func(c counts) bool { return c.logins[1] >= 10 }); err != nil {
		return err
	}
	say.text("From now on %q opens a new connection every 50 ms.", appName)

	cards, stopCards, err := encryptCards(ctx, say, s)
	if err != nil {
		return err
	}
	defer stopCards()
	follow := func(ctx context.Context, say *narrator, s *stage, _ *application) error {
		return followCards(ctx, say, s, cards)
	}
	for _, part := range []func(context.Context, *narrator, *stage, *application) error{
		rotate, emergency, rollback, tokens, keys, follow, tellPeople, look,
	} {
		if err := part(ctx, say, s, app); err != nil {
			return err
		}
	}
	return nil
}

// rotate shows a rotation that nobody notices.
func rotate(ctx context.Context, say *narrator, s *stage, app *application) error {
	say.heading("Rotate, with no downtime")
	say.text(`A new user is made and proven to work before any reader gets it. The old one goes on working for
the grace period, so that readers have time to change over.
`)
	if _, err := say.vault(ctx, "write", "-f", "rotation/rotate/database"); err != nil {
		return err
	}
	if _, err := say.vault(ctx, "read", "rotation/creds/database"); err != nil {
		return err
	}
	say.text("Who still uses the old one? Status asks the database:\n")
	if _, err := say.vault(ctx, "read", "-format=json", "-field=versions", "rotation/status/database"); err != nil {
		return err
	}
	say.text("The application changes over by itself, within its ttl; the old user dies after the grace period:\n")
	if err := s.until(ctx, app, "the application to use version 2", func(c counts) bool { return c.current == 2 }); err != nil {
		return err
	}
	if err := s.untilDead(ctx, "database", 1); err != nil {
		return err
	}
	if _, err := say.vault(ctx, "read", "-format=json", "-field=versions", "rotation/status/database"); err != nil {
		return err
	}
	seen, err := app.counts()
	if err != nil {
		return err
	}
	say.text("The application: %s.", seen)
	if seen.refused > 0 {
		return fmt.Errorf("the application was refused %d logins by a planned rotation", seen.refused)
	}
	return nil
}

// emergency shows what a leak costs: the one thing that may end a session.
func emergency(ctx context.Context, say *narrator, s *stage, app *application) error {
	say.heading("A password was seen in a log: emergency")
	say.text(`The new version first; then every other one dies at once, with its sessions, is proven dead, and can
never be rolled back to. What was done is kept in an incident.
`)
	before, err := app.counts()
	if err != nil {
		return err
	}
	if _, err := say.vault(ctx, "write", "rotation/emergency/database", "reason=password seen in a log"); err != nil {
		return err
	}
	if err := s.until(ctx, app, "the application to use version 3", func(c counts) bool { return c.current == 3 }); err != nil {
		return err
	}
	after, err := app.counts()
	if err != nil {
		return err
	}
	say.text(`The application held the leaked password: it was refused %d time(s), read again and went on.
`, after.refused-before.refused)
	if s.leak, err = s.incident(ctx, "database"); err != nil {
		return err
	}
	_, err = say.vault(ctx, "read", "-format=json", "-field=roles", "rotation/incidents/"+s.leak)
	return err
}

// rollback shows the way back, and where there is none.
func rollback(ctx context.Context, say *narrator, s *stage, app *application) error {
	say.heading("A new version gives trouble: roll back")
	before, err := app.counts()
	if err != nil {
		return err
	}
	say.text("Version 4 becomes current, and the application changes over:\n")
	if _, err := say.vault(ctx, "write", "-f", "rotation/rotate/database"); err != nil {
		return err
	}
	if err := s.until(ctx, app, "the application to use version 4", func(c counts) bool { return c.current == 4 }); err != nil {
		return err
	}
	say.text("Somebody wants the one before it back, which still lives:\n")
	for _, args := range [][]string{
		{"write", "-f", "rotation/rollback/database"},
		{"read", "rotation/creds/database"},
	} {
		if _, err := say.vault(ctx, args...); err != nil {
			return err
		}
	}
	if err := s.until(ctx, app, "the application to use version 3 again", func(c counts) bool { return c.current == 3 }); err != nil {
		return err
	}
	say.text("The leaked one is refused for ever:\n")
	if err := say.refused(ctx, "write", "rotation/rollback/database", "version=2"); err != nil {
		return err
	}
	after, err := app.counts()
	if err != nil {
		return err
	}
	say.text("The application: %s.", after)
	if after.refused > before.refused {
		return fmt.Errorf("the application was refused %d logins by a rotation and a rollback", after.refused-before.refused)
	}
	return nil
}

// look shows what an operator sees.
func look(ctx context.Context, say *narrator, _ *stage, app *application) error {
	say.heading("What an operator sees")
	for _, args := range [][]string{
		{"read", "-format=json", "-field=roles", "rotation/status"},
		{"read", "-format=json", "-field=versions", "rotation/status/database"},
	} {
		if _, err := say.vault(ctx, args...); err != nil {
			return err
		}
	}
	seen, err := app.counts()
	if err != nil {
		return err
	}
	say.text(`In all, the application made %s.
What was refused was the leaked password, in the emergency; the rotations and the rollback cost nothing.
Every rotation is kept in rotation/history. "make dev" leaves all this running for you to try.`, seen)
	return nil
}

// startApplication starts the application with a token of its own.
func (s *stage) startApplication(ctx context.Context) (*application, func(), error) {
	client, err := s.clientWith(ctx, appName)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	app, err := startApplication(ctx, client, s.postgres.CAPEM())
	if err != nil {
		cancel()
		return nil, nil, err
	}
	return app, func() { cancel(); <-app.done }, nil
}

// clientWith makes a client whose token has one policy.
func (s *stage) clientWith(ctx context.Context, policy string) (*api.Client, error) {
	secret, err := s.vault.Client().Auth().Token().CreateWithContext(ctx, &api.TokenCreateRequest{
		Policies: []string{policy}, NoDefaultPolicy: true,
	})
	if err != nil {
		return nil, fmt.Errorf("make a token for %s: %w", policy, err)
	}
	client := s.vault.Client()
	client.SetToken(secret.Auth.ClientToken)
	return client, nil
}

// until waits for the application to have seen something.
func (s *stage) until(ctx context.Context, app *application, what string, holds func(counts) bool) error {
	return s.poll(ctx, what, func() (bool, error) {
		seen, err := app.counts()
		return holds(seen), err
	})
}

// poll asks until the answer is yes, for at most a minute and a half.
func (s *stage) poll(ctx context.Context, what string, holds func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		yes, err := holds()
		if yes || err != nil {
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, ctx.Err())
		}
	}
}

// version is one version of a role, as status tells it.
func (s *stage) version(ctx context.Context, role string, wanted int) (map[string]any, error) {
	answer, err := s.vault.Client().Logical().ReadWithContext(ctx, "rotation/status/"+role)
	if err != nil {
		return nil, err
	}
	versions, _ := answer.Data["versions"].([]any)
	for _, v := range versions {
		version, _ := v.(map[string]any)
		if number(version["version"]) == wanted {
			return version, nil
		}
	}
	return nil, fmt.Errorf("status does not know version %d of %s", wanted, role)
}

// incident is the id of the incident of a role's last rotation.
func (s *stage) incident(ctx context.Context, role string) (string, error) {
	answer, err := s.vault.Client().Logical().ReadWithDataWithContext(ctx, "rotation/history/"+role, map[string][]string{"limit": {"1"}})
	if err != nil {
		return "", err
	}
	rotations, _ := answer.Data["rotations"].([]any)
	if len(rotations) == 0 {
		return "", fmt.Errorf("the history is empty")
	}
	rotation, _ := rotations[0].(map[string]any)
	id, _ := rotation["incident_id"].(string)
	if id == "" {
		return "", fmt.Errorf("the last rotation names no incident")
	}
	return id, nil
}

// develop leaves everything running, ready to be played with.
func develop(ctx context.Context, say *narrator, s *stage) error {
	if err := setUp(ctx, say, s); err != nil {
		return err
	}
	vault := s.vault.Binary()
	if _, err := exec.LookPath("vault"); err == nil {
		vault = "vault"
	}
	say.heading("It is yours, until Ctrl-C")
	say.text(`In another terminal:

  export VAULT_ADDR=%s VAULT_TOKEN=%s`, s.vault.Address(), s.vault.Token())
	if vault != "vault" {
		say.text("  alias vault=%s", vault)
	}
	say.text(`
  vault read rotation/creds/database
  vault write -f rotation/rotate/database
  vault read rotation/status/database
  vault path-help rotation/

  vault write rotation/roles/session type=jwt algorithm=ES256 allowed_claims=sub,aud
  vault write rotation/sign/session claims='{"sub": "user-1"}'
  curl $VAULT_ADDR/v1/rotation/jwks/session

  vault write rotation/roles/cards type=encryption-key
  vault write rotation/encrypt/cards plaintext=$(printf 4111-1111 | base64)

  vault write rotation/connections/openai type=openai project=%s \
    base_url=%s allow_insecure_http=true admin_key=@%s   # a stand-in, no account
  vault write rotation/roles/llm type=api-key connection=openai
  vault read rotation/creds/llm

  psql '%s'      # the database, as its superuser
`, s.openai.Project(), s.openai.BaseURL(), filepath.Join(s.dir, "openai-admin-key.txt"), s.postgres.URL("postgres", s.postgres.SuperuserPassword(), database))
	<-ctx.Done()
	say.text("\nstopping")
	return nil
}
