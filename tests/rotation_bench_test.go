package tests

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/vaulttest"
)

// How much is rotated in one turn.
const (
	benchDue    = 1000 // roles of ours that are due at one moment
	benchBare   = 300  // rotations of Vault's database engine, before that and after it
	benchStatic = 50   // its roles, which take turns
)

// strategies are the ways of rotating that are measured: what a role has beside its
// connection, its group and its times.
var strategies = map[string]func(role string) map[string]any{
	"new_user": func(string) map[string]any { return map[string]any{"strategy": "new_user"} },
	"alternate": func(role string) map[string]any {
		return map[string]any{"strategy": "alternate", "usernames": []string{role + "_blue", role + "_green"}}
	},
}

// BenchmarkRotations compares whole rotations (look, make, verify, switch, record)
// of 1,000 roles that are due at one moment, from that moment until the last one has
// ended, with what Vault's own database engine does when it is asked to change one
// password after another: all in one Vault, in turns, on one PostgreSQL over TLS. Beside
// it stands what no rotation that proves its version by a login can exceed: as many bare
// logins as this PostgreSQL takes.
func BenchmarkRotations(b *testing.B) {
	r := newRace(b)
	r.prepareBare()
	for name, options := range strategies {
		b.Run(name, func(b *testing.B) {
			lane := &lane{race: r, mount: mount{r.vault.Address(), r.vault.Token(), "rotation-" + name}, options: options}
			lane.prepare(b)
			r.bare(b, benchStatic) // warm
			b.ResetTimer()
			var bare, ours, logins float64
			for b.Loop() {
				before := r.bare(b, benchBare)
				ours += lane.allDue(b)
				bare += (before + r.bare(b, benchBare)) / 2
				logins += r.logins(b)
			}
			b.ReportMetric(bare/float64(b.N), "bare-rotations/s")
			b.ReportMetric(ours/float64(b.N), "rotations/s")
			b.ReportMetric(ours/bare, "rotations/bare")
			b.ReportMetric(logins/bare, "logins/bare")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// A race is the Vault and the PostgreSQL that all take part in.
type race struct {
	b        *testing.B
	vault    *vaulttest.Server
	postgres *pgtest.Server
	password string // the administrator's
}

const (
	raceAdmin = "race_admin"
	raceGroup = "race_group"
)

// newRace starts the servers as operators run them: durable, and quiet.
func newRace(b *testing.B) *race {
	r := &race{b: b, password: "administrator-" + b.Name()}
	r.vault = vaulttest.New(b, vaulttest.Options{LogLevel: "info"})
	r.postgres = pgtest.New(b, pgtest.Options{Settings: map[string]string{
		"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "wal_level": "replica",
		"log_statement": "none", "log_connections": "off",
	}})
	r.postgres.MustExec(b, "postgres",
		fmt.Sprintf("CREATE ROLE %s LOGIN CREATEROLE PASSWORD '%s'", raceAdmin, r.password),
		"CREATE ROLE "+raceGroup, fmt.Sprintf("GRANT %s TO %s WITH ADMIN OPTION", raceGroup, raceAdmin))
	return r
}

func (r *race) write(b *testing.B, m mount, path string, body map[string]any) {
	b.Helper()
	a := m.call(b.Context(), http.MethodPut, path, body)
	require.True(b, a.ok(), "%s: %d %s", path, a.Status, a.sentence())
}

func (r *race) connection() map[string]any {
	return map[string]any{
		"connection_url": r.postgres.TemplateURL("postgres"), "username": raceAdmin, "password": r.password, "tls_ca": r.postgres.CAPEM(),
	}
}

// databaseEngine is where Vault's own engine is mounted.
func (r *race) databaseEngine() mount { return mount{r.vault.Address(), r.vault.Token(), "database"} }

// prepareBare mounts Vault's database engine and gives it users to rotate.
func (r *race) prepareBare() {
	ctx := r.b.Context()
	require.NoError(r.b, r.vault.RegisterDatabasePlugin(ctx, databasePlugin, ensureDatabasePlugin(r.b)))
	_, err := r.vault.CLI(ctx, "secrets", "enable", "database")
	require.NoError(r.b, err)
	m := r.databaseEngine()
	r.write(r.b, m, "config/main", with(r.connection(), map[string]any{"plugin_name": databasePlugin, "allowed_roles": "*"}))
	for i := range benchStatic {
		user := bareUser(i)
		require.NoError(r.b, r.asAdmin(ctx, "CREATE ROLE "+user+" LOGIN"))
		r.write(r.b, m, "static-roles/"+user, map[string]any{"db_name": "main", "username": user, "rotation_period": "720h"})
	}
}

func bareUser(i int) string { return fmt.Sprintf("bare_%d", i) }

func (r *race) asAdmin(ctx context.Context, statement string) error {
	conn, err := r.postgres.Connect(ctx, raceAdmin, r.password, "postgres")
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, statement)
	return err
}

// bare rotates with Vault's own engine, one after another, and returns the rate.
func (r *race) bare(b *testing.B, count int) (perSecond float64) {
	start := time.Now()
	for i := range count {
		r.write(b, r.databaseEngine(), "rotate-role/"+bareUser(i%benchStatic), nil)
	}
	return float64(count) / time.Since(start).Seconds()
}

// logins is how many logins a second the server takes on all processors.
func (r *race) logins(b *testing.B) float64 {
	return onAllProcessors(b, 3*time.Second, func() error {
		conn, err := r.postgres.Connect(b.Context(), raceAdmin, r.password, "postgres")
		if err != nil {
			return err
		}
		return conn.Close(b.Context())
	})
}

// A lane is a mount of ours with roles of one strategy.
type lane struct {
	*race
	mount
	options func(role string) map[string]any
	telling time.Duration // enough to write every role once more
}

func (l *lane) roleName(i int) string { return fmt.Sprintf("%s-%d", l.path, i) } // two mounts must not keep roles of one name for one group

func (l *lane) prepare(b *testing.B) {
	require.NoError(b, l.vault.Mount(b.Context(), l.path))
	l.write(b, l.mount, "connections/main", with(l.connection(), map[string]any{"type": "postgresql"}))
	start := time.Now()
	l.each(b, func(role string) map[string]any {
		return with(map[string]any{"type": "postgresql", "connection": "main", "member_of": raceGroup}, l.options(role))
	})
	l.telling = 5*time.Second + time.Since(start)/2 // a rotation of each is dearer by far
}

// each writes every role, several at a time.
func (l *lane) each(b *testing.B, fields func(role string) map[string]any) {
	b.Helper()
	next := make(chan string)
	var writers sync.WaitGroup
	for range readers {
		writers.Go(func() {
			for role := range next {
				if a := l.call(b.Context(), http.MethodPut, "roles/"+role, fields(role)); !a.ok() {
					b.Errorf("write %s: %d %s", role, a.Status, a.sentence())
				}
			}
		})
	}
	for i := range benchDue {
		next <- l.roleName(i)
	}
	close(next)
	writers.Wait()
	require.False(b, b.Failed())
}

// allDue lets every role be due at one moment, and returns how many a second were
// rotated from then on until the last one had ended.
func (l *lane) allDue(b *testing.B) (perSecond float64) {
	due := l.appoint(b)
	wait(b, time.Until(due))
	for {
		page := l.page(b, 1)
		late := page.Counts["due"] + page.Counts["rotating"] + page.Counts["failing"] + page.Counts["blocked"]
		if took := time.Since(due); late == 0 {
			l.requireRotated(b, due)
			return benchDue / took.Seconds()
		}
		wait(b, 50*time.Millisecond)
	}
}

// appoint sets the time of the next rotation of every role: far enough from now for
// the last one to be told before the first one is due.
func (l *lane) appoint(b *testing.B) (due time.Time) {
	due = time.Now().Add(l.telling).Truncate(time.Second).UTC()
	l.each(b, func(string) map[string]any { return map[string]any{"next_rotation": due.Format(time.RFC3339)} })
	require.Positive(b, time.Until(due), "writing the roles took longer than %s", l.telling)
	return due
}

// statusPage is an answer of status.
type statusPage struct {
	Roles []struct {
		Name    string    `json:"name"`
		Rotated time.Time `json:"last_vault_rotation"`
	} `json:"roles"`
	Counts map[string]int `json:"counts"`
}

func (l *lane) page(b *testing.B, limit int) (page statusPage) {
	b.Helper()
	a := l.call(b.Context(), http.MethodGet, fmt.Sprintf("status?limit=%d", limit), nil)
	require.True(b, a.ok(), "status: %d %s", a.Status, a.sentence())
	require.NoError(b, json.Unmarshal(a.Data, &page))
	return page
}

func (l *lane) requireRotated(b *testing.B, due time.Time) {
	page := l.page(b, benchDue)
	require.Len(b, page.Roles, benchDue)
	for _, role := range page.Roles {
		require.False(b, role.Rotated.Before(due), "%s was not rotated", role.Name)
	}
}

// wait lets time pass that a real clock has to tell.
func wait(b *testing.B, d time.Duration) {
	select {
	case <-time.After(d):
	case <-b.Context().Done():
		b.Fatal("the benchmark ended while it waited")
	}
}
