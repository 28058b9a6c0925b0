package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/fakechannels"
)

// tellPeople shows that a failure is told, and so is its end; and what is on record of the leak.
func tellPeople(ctx context.Context, say *narrator, s *stage, app *application) error {
	say.heading("A rotation fails, and people are told")
	say.text(`Slack is a stand-in on this machine, which takes what Slack takes; that is why allow_insecure_http is
given. PagerDuty, signed webhooks and mail are written the same way.
`)
	s.slack = fakechannels.NewSlack()
	err := s.postgres.Exec(ctx, database, "CREATE TABLE reports (id bigint)", "ALTER TABLE reports OWNER TO "+group)
	if err != nil {
		return err
	}
	err = say.vaultEach(
		ctx,
		[]string{"write", "rotation/channels/ops", "type=slack", "url=" + s.slack.WebhookURL(), "allow_insecure_http=true"},
		[]string{"write", "-f", "rotation/channels/ops/test"},
		[]string{"write", "rotation/connections/main", "allow_custom_statements=true"},
		[]string{"write", "rotation/roles/database", "verification_statements=SELECT count(*) FROM reports"},
	)
	if err != nil {
		return err
	}
	if err := s.postgres.Exec(ctx, database, "ALTER TABLE reports RENAME TO reports_old"); err != nil {
		return err
	}
	say.text("A table that every new user must be able to read was renamed. The rotation is given up before any reader notices:\n")
	if err := say.refused(ctx, "write", "-f", "rotation/rotate/database"); err != nil {
		return err
	}
	if err := s.slackSays(ctx, say, "rotation of database failed"); err != nil {
		return err
	}
	if err := s.postgres.Exec(ctx, database, "ALTER TABLE reports_old RENAME TO reports"); err != nil {
		return err
	}
	say.text("The name is mended, and somebody rotates again:\n")
	if _, err := say.vault(ctx, "write", "-f", "rotation/rotate/database"); err != nil {
		return err
	}
	if err := s.slackSays(ctx, say, "database is well again"); err != nil {
		return err
	}
	seen, err := app.counts()
	if err != nil {
		return err
	}
	say.text("The application noticed none of it: %s.\n", seen)
	say.text("And this is the record of the leak of before, as a security log wants it: who, when, how it ended, who had read it:\n")
	_, err = say.vault(ctx, "read", "-field=report", "rotation/incidents/"+s.leak, "format=markdown")
	return err
}

// slackSays waits for a message, and shows it.
func (s *stage) slackSays(ctx context.Context, say *narrator, what string) error {
	var found string
	err := s.poll(ctx, fmt.Sprintf("Slack to say that %q", what), func() (bool, error) {
		messages := s.slack.Messages()
		i := slices.IndexFunc(messages, func(m fakechannels.SlackMessage) bool { return strings.Contains(m.Text, what) })
		if i >= 0 {
			found = messages[i].Text
		}
		return i >= 0, nil
	})
	say.text("Slack:  %s\n", found)
	return err
}
