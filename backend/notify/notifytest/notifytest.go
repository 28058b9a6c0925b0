// Package notifytest has what the tests of all kinds of channel ask of them.
package notifytest

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/notify"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// Canary stands in secrets that must turn up nowhere.
const Canary = "cAnArY7f3a9d1e5b"

// Message is an ordinary one.
func Message() *notify.Message {
	return &notify.Message{
		ID: "01JZ-msg-1", Event: "rotation.failed", Severity: notify.Error, Time: time.Date(2026, 5, 4, 12, 30, 0, 0, time.UTC),
		Source: "/vault/rotation/3f2a", Roles: []string{"billing-db"}, Summary: "The rotation of billing-db failed for the third time.",
		Fields: []notify.Field{{Name: "phase", Value: "prepared"}, {Name: "error", Value: "the database refused the login"}},
		Alarm:  "failing/billing-db", IncidentID: "inc-1", Link: "https://wiki.example.com/runbook?a=1&b=2",
	}
}

// Hostile is one whose every text was written by somebody who means harm, and is far too long.
func Hostile() *notify.Message {
	evil := "<!channel> <https://evil.example|click> & \r\nBcc: victim@example.com\r\n\r\n.\r\n\x00\xff🔑\u202e"
	long := strings.Repeat(evil, 2000)
	m := &notify.Message{
		ID: "id\r\nX-Evil: 1", Event: evil, Severity: notify.Critical, Time: time.Date(2026, 5, 4, 12, 30, 0, 0, time.UTC),
		Source: "/vault/" + strings.Repeat("s", 4000), Roles: []string{long, evil}, Summary: long, Alarm: long, IncidentID: long,
		Link: "https://evil.example/|<!here>" + strings.Repeat("l", 5000),
	}
	for i := range 700 {
		m.Fields = append(m.Fields, notify.Field{Name: fmt.Sprint(i, evil), Value: evil})
	}
	m.Fields[0] = notify.Field{Name: long, Value: long}
	m.Fields[1] = notify.Field{}
	return m
}

// Empty has nothing but what it must.
func Empty() *notify.Message {
	return &notify.Message{ID: "m", Event: "config.written", Severity: notify.Info, Time: time.Unix(0, 0), Source: "/vault/rotation/3f2a"}
}

// Crowd is about 500 roles.
func Crowd() *notify.Message {
	m := Message()
	m.Roles = nil
	for i := range 500 {
		m.Roles = append(m.Roles, fmt.Sprintf("team-%03d-database", i))
	}
	return m
}

// Wrong is a change of a channel that is refused with a sentence about a field.
type Wrong struct {
	Values  option.Values
	Secrets map[string]string
	// Field is what the sentence begins with, Says what stands in it.
	Field, Says string
}

// Checks asks Check of a kind for its yes to a channel, and for its no to each change of it.
func Checks(t *testing.T, kind notify.Kind, good *notify.Channel, wrong map[string]Wrong) {
	t.Helper()
	require.NoError(t, kind.Check(good))
	for name, w := range wrong {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := &notify.Channel{Name: good.Name, Values: maps.Clone(good.Values), Secrets: good.Secrets.Merge(secret.NewMap(w.Secrets))}
			maps.Copy(c.Values, w.Values)
			err := kind.Check(c)
			require.ErrorContains(t, err, w.Says)
			var f *fault.Error
			require.ErrorAs(t, err, &f)
			require.Equal(t, fault.Invalid, f.Kind)
			require.Equal(t, w.Field, f.Field)
			require.NotContains(t, err.Error(), Canary)
		})
	}
}

// Declares asks for what root makes fields and help of.
func Declares(t *testing.T, kind notify.Kind, typ string, secrets, addresses []string) {
	t.Helper()
	require.Equal(t, typ, kind.Type())
	require.Regexp(t, `^[A-Z].*\.$`, kind.Help())
	var secret, address []string
	for _, o := range kind.Options() {
		require.Regexp(t, `^[A-Za-z].*\.$`, o.Help, o.Name)
		if o.Secret {
			secret = append(secret, o.Name)
		}
		if o.Address {
			address = append(address, o.Name)
		}
	}
	require.ElementsMatch(t, secrets, secret)
	require.ElementsMatch(t, addresses, address, "what a stored secret must not follow")
}

// Fails reads the failure of a delivery, in which no secret stands.
func Fails(t *testing.T, err error) *notify.Failure {
	t.Helper()
	require.Error(t, err)
	for text := err; text != nil; {
		require.NotContains(t, text.Error(), Canary)
		next, ok := text.(interface{ Unwrap() error })
		if !ok {
			break
		}
		text = next.Unwrap()
	}
	return notify.FailureOf(err)
}
