package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5"
)

// cardRows are how many the table has. They are rewritten in some seconds, so that there is
// something to see.
const (
	cardRows          = 5000
	cardRowsPerSecond = "1000"
)

// oldCiphertext is the file that keeps a ciphertext of the first version.
const oldCiphertext = "old-ciphertext.txt"

// encryptCards shows a table in use whose key rotates. Its end takes longer than a minute:
// followCards comes back to it.
func encryptCards(ctx context.Context, say *narrator, s *stage) (*cards, func(), error) {
	say.heading("A table of encrypted cards: its key rotates while it is in use")
	say.text(`A version of this role is a key that encrypts, as in Vault's transit. A target says in which table the
ciphertexts lie. The connection's user may read that table and change that column, and nothing else. The
times are short here: by default the rows are left alone for a day, and the settle_period is an hour.
`)
	err := say.vaultEach(
		ctx,
		[]string{
			"write", "rotation/connections/billing", "type=postgresql", "connection_url=" + s.postgres.TemplateURL(database),
			"tls_ca=@postgres-ca.pem", "username=" + cardsAdmin, "password=@cards-admin-password.txt",
			"allowed_tables=billing.cards", "allowed_roles=cards",
		},
		[]string{
			"write", "rotation/roles/cards", "type=encryption-key", "rotation_period=365d", "grace_period=20s",
			"reencrypt_after=3s", "settle_period=1m", "max_rows_per_second=" + cardRowsPerSecond,
		},
		[]string{"write", "rotation/reencrypt/cards/targets/cards", "connection=billing", "table=billing.cards", "key_columns=id", "columns=number"},
		[]string{"policy", "write", cardsName, cardsName + ".hcl"},
	)
	if err != nil {
		return nil, nil, err
	}
	app, stop, err := s.startCards(ctx)
	if err != nil {
		return nil, nil, err
	}
	if err := s.rotateCards(ctx, say, app); err != nil {
		stop()
		return nil, nil, err
	}
	return app, stop, nil
}

// rotateCards begins what followCards ends.
func (s *stage) rotateCards(ctx context.Context, say *narrator, app *cards) error {
	if err := s.untilCards(ctx, app, "the application to write cards", func(w cardWork) bool { return w.written[1] >= 5 }); err != nil {
		return err
	}
	old, err := s.anyCard(ctx)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(s.dir, oldCiphertext), []byte(old), 0o600); err != nil {
		return err
	}
	say.text(`%q has stored %d cards, and goes on: every 20 ms it reads one and compares it with what it
wrote, or writes another number. What would be touched? A dry run counts, and changes nothing:
`, cardsName, cardRows)
	if err := say.vaultEach(
		ctx,
		[]string{"write", "-format=json", "-field=targets", "rotation/reencrypt/cards/run", "dry_run=true"},
		[]string{"write", "-f", "rotation/rotate/cards"},
	); err != nil {
		return err
	}
	say.text("Version 2 encrypts from now on, and 1 decrypts. The rows follow, while they are in use:\n")
	rewriting := func() (bool, error) {
		state, done, err := s.reencryption(ctx)
		return state != "waiting" && done > 0, err
	}
	if err := s.poll(ctx, "the first rows to be rewritten", rewriting); err != nil {
		return err
	}
	if _, err := say.vault(ctx, "read", "-format=json", "-field=targets", "rotation/reencrypt/cards"); err != nil {
		return err
	}
	say.text(`Version 1 does not end with the last row: somebody may have encrypted with it a moment before the
rotation, and not stored that yet. So the role waits for a settle_period, then for the transactions
of that time, and counts. We come back to it.`)
	return nil
}

// followCards shows that the old version ended when nothing was left of it, and not before.
func followCards(ctx context.Context, say *narrator, s *stage, app *cards) error {
	say.heading("Back to the cards: the old key has ended")
	ended := func() (bool, error) {
		version, err := s.version(ctx, "cards", 1)
		return version["state"] == "disabled" && version["proven_dead"] == true, err
	}
	if err := s.poll(ctx, "version 1 of cards to be disabled and proven dead", ended); err != nil {
		return err
	}
	say.text("A minute after the rotation a count of all rows found nothing of version 1. Only then it ended:\n")
	if err := say.vaultEach(
		ctx,
		[]string{"read", "-format=json", "-field=versions", "rotation/reencrypt/cards"},
		[]string{"read", "-format=json", "-field=versions", "rotation/status/cards"},
	); err != nil {
		return err
	}
	say.text("A ciphertext from before the rotation, out of a backup perhaps, is refused:\n")
	if err := say.refused(ctx, "write", "rotation/decrypt/cards", "ciphertext=@"+oldCiphertext); err != nil {
		return err
	}
	left, err := s.postgres.QueryString(ctx, database, "SELECT count(*)::text FROM billing.cards WHERE number NOT LIKE 'vault:v2:%'")
	if err != nil {
		return err
	}
	seen, err := app.seen()
	if err != nil {
		return err
	}
	say.text(`Its key is kept: reencrypt/cards/reopen lets it decrypt again. It is destroyed only where destroy_after says when.
The application: %s.`, seen)
	if left != "0" || seen.written[2] == 0 {
		return fmt.Errorf("%s rows are not of version 2, and the application wrote %d of it", left, seen.written[2])
	}
	return nil
}

// reencryption is the state of the job, and how many rows it has looked at.
func (s *stage) reencryption(ctx context.Context) (state string, done int, err error) {
	answer, err := s.vault.Client().Logical().ReadWithContext(ctx, "rotation/reencrypt/cards")
	if err != nil {
		return "", 0, err
	}
	if answer == nil {
		return "", 0, errors.New("there is no re-encryption of cards to read")
	}
	state, _ = answer.Data["state"].(string)
	targets, _ := answer.Data["targets"].(map[string]any)
	target, _ := targets["cards"].(map[string]any)
	return state, number(target["rows_done"]), nil
}

// anyCard is what one row holds now.
func (s *stage) anyCard(ctx context.Context) (string, error) {
	return s.postgres.QueryString(ctx, database, "SELECT number FROM billing.cards WHERE id = 1")
}

// prepareCards does what the database's owner does once: the table, a user for the
// application, and one for Vault that may read and change its rows.
func (s *stage) prepareCards(ctx context.Context, appPassword, adminPassword string) error {
	return s.postgres.Exec(ctx, database,
		"CREATE SCHEMA billing",
		"CREATE TABLE billing.cards (id bigint PRIMARY KEY, number text NOT NULL)",
		fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD '%s'", pgx.Identifier{cardsName}.Sanitize(), appPassword),
		fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD '%s'", cardsAdmin, adminPassword),
		fmt.Sprintf("GRANT USAGE ON SCHEMA billing TO %s, %s", pgx.Identifier{cardsName}.Sanitize(), cardsAdmin),
		fmt.Sprintf("GRANT SELECT, INSERT, UPDATE ON billing.cards TO %s", pgx.Identifier{cardsName}.Sanitize()),
		fmt.Sprintf("GRANT SELECT (id, number), UPDATE (number) ON billing.cards TO %s", cardsAdmin),
	)
}

// cardNumber is a number as it might stand on a card.
func cardNumber(id, turn int) string { return fmt.Sprintf("4111-%04d-%08d", turn%10000, id) }

func encoded(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }

// versionOf reads the version out of a ciphertext.
func versionOf(ciphertext string) (version int) {
	_, _ = fmt.Sscanf(strings.TrimPrefix(ciphertext, "vault:v"), "%d:", &version)
	return version
}
