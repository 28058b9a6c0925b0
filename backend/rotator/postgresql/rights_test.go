package postgresql_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
)

// What the group may see and what becomes of what its users make is the same for
// every version: row security and default privileges know the group, not the users.
func TestVersionsSeeAndGiveTheSame(t *testing.T) {
	for name, fresh := range map[string]func(testing.TB, bool) *fixture{"new_user": newFixture, "alternate": standingFixture} {
		for admin, superuser := range admins {
			t.Run(name+", "+admin, func(t *testing.T) {
				f := fresh(t, superuser)
				group, readers := pgtest.Ident(f.group), pgtest.Ident(f.id+`_Leser "ß"`)
				f.server.MustExec(t, f.database,
					"CREATE ROLE "+readers,
					"CREATE TABLE public.tenants (tenant text)", "INSERT INTO public.tenants VALUES ('blue'), ('green')",
					"ALTER TABLE public.tenants ENABLE ROW LEVEL SECURITY", "GRANT SELECT ON public.tenants TO "+group,
					"CREATE POLICY mine ON public.tenants TO "+group+" USING (tenant = 'blue')",
					"ALTER DEFAULT PRIVILEGES FOR ROLE "+group+" IN SCHEMA public GRANT SELECT ON TABLES TO "+readers)
				first := f.next(1)
				second := f.next(2, first)
				for table, target := range map[string]*rotator.Target{"made_by_first": first, "made_by_second": second} {
					conn := f.session(target, f.database)
					var seen string
					require.NoError(t, conn.QueryRow(f.ctx(), "SELECT string_agg(tenant, ',') FROM public.tenants").Scan(&seen))
					require.Equal(t, "blue", seen)
					_, err := conn.Exec(f.ctx(), "CREATE TABLE public."+table+" (id int)")
					require.NoError(t, err)
					require.Equal(t, "true", f.server.MustQuery(t, f.database, "SELECT has_table_privilege($1, 'public."+table+"', 'SELECT')::text", f.id+`_Leser "ß"`))
					require.Equal(t, f.group, f.server.MustQuery(t, f.database, "SELECT tableowner FROM pg_tables WHERE tablename = $1", table))
				}
				_, err := f.session(second, f.database).Exec(f.ctx(), "ALTER TABLE public.made_by_first ADD COLUMN name text")
				require.NoError(t, err, "what one version made the next one can alter")
			})
		}
	}
}
