package postgresql_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/reencrypt"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/postgresql"
)

// Only tables that the connection names are opened, whatever dots and quotes names have.
func TestAllowedTables(t *testing.T) {
	f := newFixture(t, true)
	f.server.MustExec(t, f.database, `CREATE SCHEMA billing`, `CREATE SCHEMA "billing.x"`, `CREATE SCHEMA "Billing"`)
	names := []string{`billing.cards`, `billing."a.b"`, `"billing.x".cards`, `"Billing".cards`, `public.cards`, `public."cards.old"`}
	for _, name := range names {
		f.server.MustExec(t, f.database, "CREATE TABLE "+name+" (id int PRIMARY KEY, c text)")
	}
	var holder rotator.DataHolder = postgresql.NewConnectionKind()
	for _, c := range []struct {
		patterns []string
		admitted []string
	}{
		{nil, nil},
		{[]string{"billing.*"}, []string{`billing.cards`, `billing."a.b"`}},
		{[]string{"Billing.CARDS"}, []string{`billing.cards`}},
		{[]string{`"Billing".*`, "public.cards"}, []string{`"Billing".cards`, `public.cards`}},
		{[]string{`"billing.x".cards`}, []string{`"billing.x".cards`}},
		{[]string{`bill*.cards`}, []string{`billing.cards`, `"billing.x".cards`}},
		{[]string{`public.cards*`}, []string{`public.cards`, `public."cards.old"`}},
		{[]string{`*.*`}, names},
	} {
		f.values["allowed_tables"] = c.patterns
		_, err := postgresql.NewConnectionKind().CheckConnection(f.config())
		require.NoError(t, err)
		f.reopen()
		db, err := holder.Database(f.conn)
		require.NoError(t, err)
		var admitted []string
		for _, name := range names {
			_, err := db.Open(f.ctx(), &reencrypt.Target{Connection: "main", Table: name, KeyColumns: []string{"id"}, Columns: []string{"c"}})
			if err == nil {
				admitted = append(admitted, name)
				continue
			}
			require.EqualError(t, err, `table: is not admitted: connection "main" names no such table in its allowed_tables`)
		}
		require.Equal(t, c.admitted, admitted, c.patterns)
		_, err = db.Open(f.ctx(), &reencrypt.Target{Connection: "main", Table: "pg_catalog.pg_class", KeyColumns: []string{"oid"}, Columns: []string{"c"}})
		require.True(t, fault.Is(err, fault.Invalid), "never the server's own: %v", err)
	}
	for _, wrong := range []string{"", "*", "cards", "a.b.c", `billing."x`, "billing.", ".cards", "billing.ca rds", `"billing*".cards`, `billing."*"`} {
		f.values["allowed_tables"] = []string{wrong}
		_, err := postgresql.NewConnectionKind().CheckConnection(f.config())
		require.ErrorContains(t, err, "allowed_tables: entry 1", wrong)
	}
}
