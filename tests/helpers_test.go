package tests

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/await"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/vaulttest"
)

// A mount is the engine as its clients see it: a path of Vault's API. It may be used by many
// goroutines, and fails no test by itself.
type mount struct {
	address, token, path string
}

// An answer is what Vault's API answered, success or not.
type answer struct {
	Status   int             `json:"-"`
	Data     json.RawMessage `json:"data"`
	Warnings []string        `json:"warnings"`
	Errors   []string        `json:"errors"`
	Text     string          `json:"-"` // the whole body
}

func (a answer) ok() bool { return a.Status == http.StatusOK || a.Status == http.StatusNoContent }

// sentence is what the plugin said, without the frame that Vault puts around an error with a code.
func (a answer) sentence() string {
	return strings.TrimSpace(strings.TrimPrefix(strings.Join(a.Errors, "\n"), "1 error occurred:\n\t* "))
}

// fields gives the answer's data, numbers as json.Number.
func (a answer) fields() map[string]any {
	decoder := json.NewDecoder(bytes.NewReader(a.Data))
	decoder.UseNumber()
	fields := map[string]any{}
	if err := decoder.Decode(&fields); err != nil {
		return nil
	}
	return fields
}

var httpClient = &http.Client{Timeout: 2 * time.Minute}

// call makes one request, without repeating it. A transport error is an answer with status 0.
func (m mount) call(ctx context.Context, method, path string, body map[string]any) answer {
	content, err := json.Marshal(body)
	if err != nil {
		return answer{Errors: []string{err.Error()}}
	}
	request, err := http.NewRequestWithContext(ctx, method, m.address+"/v1/"+m.path+"/"+path, bytes.NewReader(content))
	if err != nil {
		return answer{Errors: []string{err.Error()}}
	}
	request.Header.Set("X-Vault-Token", m.token)
	response, err := httpClient.Do(request)
	if err != nil {
		return answer{Errors: []string{err.Error()}}
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	a := answer{Status: response.StatusCode, Text: string(text)}
	if err == nil && len(text) > 0 {
		err = json.Unmarshal(text, &a)
	}
	if err != nil {
		return answer{Errors: []string{fmt.Sprintf("read the answer: %v", err)}}
	}
	return a
}

// read repeats a GET while Vault answers with a 5xx or not at all, as its own clients do: so it is
// for a moment after the plugin's process was killed.
func (m mount) read(ctx context.Context, path string) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, await.Patience)
	defer cancel()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		a := m.call(ctx, http.MethodGet, path, nil)
		if a.Status != 0 && a.Status < http.StatusInternalServerError {
			return a, nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return a, fmt.Errorf("read %s: %w; last answer: %d %s", path, ctx.Err(), a.Status, a.sentence())
		}
	}
}

// credential is an answer of creds/.
type credential struct {
	Version  int    `json:"version"`
	TTL      int    `json:"ttl"`
	Username string `json:"username"`
	Password string `json:"password"`
	URL      string `json:"connection_url"`
	Changed  string `json:"last_vault_rotation"`
}

func (m mount) creds(ctx context.Context, role string) (credential, error) {
	a, err := m.read(ctx, "creds/"+role)
	if err != nil {
		return credential{}, err
	}
	if !a.ok() {
		return credential{}, fmt.Errorf("read creds/%s: %d %s", role, a.Status, a.sentence())
	}
	var c credential
	return c, json.Unmarshal(a.Data, &c)
}

// What status/:name, history/:name and the requests answer, as far as tests look at it.
type (
	roleStatus struct {
		State         string          `json:"state"`
		Reason        string          `json:"state_reason"`
		Current       int             `json:"current_version"`
		Rotation      *rotationAnswer `json:"rotation"`
		Versions      []versionAnswer `json:"versions"`
		OpenIncidents []string        `json:"open_incidents"`
		Failures      int             `json:"consecutive_failures"`
	}
	rotationAnswer struct {
		ID         string `json:"rotation_id"`
		Trigger    string `json:"trigger"`
		Phase      string `json:"phase"`
		Outcome    string `json:"outcome"`
		Version    int    `json:"version"`
		Previous   int    `json:"previous_version"`
		IncidentID string `json:"incident_id"`
		Reason     string `json:"reason"`
	}
	versionAnswer struct {
		Version     int       `json:"version"`
		State       string    `json:"state"`
		ReadyAt     time.Time `json:"ready_at"`
		Identifier  string    `json:"identifier"`
		Compromised bool      `json:"compromised"`
		ProvenDead  bool      `json:"proven_dead"`
		InUse       []struct {
			Application string `json:"application_name"`
			Address     string `json:"client_addr"`
			Count       int    `json:"count"`
		} `json:"in_use"`
	}
)

func (s roleStatus) version(number int) versionAnswer {
	for _, v := range s.Versions {
		if v.Version == number {
			return v
		}
	}
	return versionAnswer{}
}

func (s roleStatus) highest() (highest int) {
	for _, v := range s.Versions {
		highest = max(highest, v.Version)
	}
	return max(highest, s.Current)
}

// A world is one mount with a database, a group and an administrator of its own. All its names are
// used nowhere else, since users and their marks belong to the whole cluster.
type world struct {
	mount
	t        *testing.T
	vault    *vaulttest.Server
	postgres *pgtest.Server
	database string
	group    string
	admin    string
	password string // the administrator's
	role     string
}

var worlds atomic.Int64

// newWorld prepares the database as its owner would, mounts the engine and writes the connection main.
func newWorld(t *testing.T, name string, vault *vaulttest.Server, postgres *pgtest.Server) *world {
	t.Helper()
	name = fmt.Sprintf("%s%d", name, worlds.Add(1))
	w := &world{
		mount: mount{vault.Address(), vault.Token(), name},
		t:     t, vault: vault, postgres: postgres,
		database: name, group: name + "_app", admin: name + "_admin", password: rand.Text(), role: name,
	}
	require.NoError(t, postgres.CreateDatabase(t.Context(), w.database, ""))
	w.superuser(
		"SET log_statement = 'none'", // the one password that is set here stays out of the server's log
		fmt.Sprintf("CREATE ROLE %s LOGIN CREATEROLE PASSWORD '%s'", w.admin, w.password),
		"RESET log_statement",
		fmt.Sprintf("CREATE ROLE %s NOLOGIN", w.group),
		fmt.Sprintf("GRANT %s TO %s WITH ADMIN OPTION", w.group, w.admin),
		fmt.Sprintf("GRANT pg_signal_backend, pg_read_all_stats TO %s", w.admin),
		"CREATE TABLE orders (id bigserial PRIMARY KEY)",
		fmt.Sprintf("ALTER TABLE orders OWNER TO %s", w.group),
	)
	require.NoError(t, vault.Mount(t.Context(), w.path))
	w.write("connections/main", w.connection(nil))
	return w
}

// connection gives the fields of a working connection, with changes; a nil value takes a field away.
func (w *world) connection(changes map[string]any) map[string]any {
	return with(map[string]any{
		"type": "postgresql", "connection_url": w.postgres.TemplateURL(w.database), "tls_ca": w.postgres.CAPEM(),
		"username": w.admin, "password": w.password, "allowed_groups": w.group,
	}, changes)
}

// roleFields gives the fields of a working role, with changes.
func (w *world) roleFields(changes map[string]any) map[string]any {
	return with(map[string]any{
		"type": "postgresql", "connection": "main", "member_of": w.group, "rotation_period": "30d", "grace_period": "20s",
	}, changes)
}

func with(fields, changes map[string]any) map[string]any {
	for name, value := range changes {
		if value == nil {
			delete(fields, name)
			continue
		}
		fields[name] = value
	}
	return fields
}

// superuser runs statements in the world's database.
func (w *world) superuser(statements ...string) {
	w.t.Helper()
	w.postgres.MustExec(w.t, w.database, statements...)
}

// write makes a request that must succeed.
func (w *world) write(path string, body map[string]any) answer {
	w.t.Helper()
	a := w.call(w.t.Context(), http.MethodPut, path, body)
	require.True(w.t, a.ok(), "write %s: %d %s", path, a.Status, a.sentence())
	return a
}

// rotation makes a request that is answered with a rotation.
func (w *world) rotation(path string, body map[string]any) (r rotationAnswer) {
	w.t.Helper()
	require.NoError(w.t, json.Unmarshal(w.write(path, body).Data, &r))
	return r
}

// get reads what must be there.
func (w *world) get(path string) answer {
	w.t.Helper()
	a, err := w.read(w.t.Context(), path)
	require.NoError(w.t, err)
	require.True(w.t, a.ok(), "read %s: %d %s", path, a.Status, a.sentence())
	return a
}

func (w *world) status(role string) (s roleStatus) {
	w.t.Helper()
	require.NoError(w.t, json.Unmarshal(w.get("status/"+role).Data, &s))
	return s
}

func (w *world) current(role string) credential {
	w.t.Helper()
	c, err := w.creds(w.t.Context(), role)
	require.NoError(w.t, err)
	return c
}

// awaitState waits until a role is in one of the states.
func (w *world) awaitState(role string, within time.Duration, states ...string) {
	w.t.Helper()
	await.Within(w.t, within, fmt.Sprintf("%s to be %s", role, strings.Join(states, " or ")), func() (bool, any) {
		s := w.status(role)
		return slices.Contains(states, s.State), fmt.Sprintf("%s: %s", s.State, s.Reason)
	})
}

// awaitRotation asks for a rotation and waits until a new version is current, whatever became of the
// request: a killed process answers nothing, and the next one goes on where it stopped.
func (w *world) awaitRotation(role string) int {
	w.t.Helper()
	return w.awaitAbove(role, w.status(role).highest())
}

// awaitAbove is awaitRotation for a rotation that may have begun: to a version above this one.
func (w *world) awaitAbove(role string, before int) (after int) {
	w.t.Helper()
	await.Until(w.t, "a new version of "+role, func() (bool, any) {
		s := w.status(role)
		if after = s.Current; after > before {
			return true, nil
		}
		if s.Rotation == nil && s.State != "rotating" {
			w.call(w.t.Context(), http.MethodPut, "rotate/"+role, nil) // a refusal is repeated
		}
		return false, fmt.Sprintf("version %d, %s: %s", s.Current, s.State, s.Reason)
	})
	return after
}

// users are the users in the cluster that carry a mark of the role, whosever mount made them.
func (w *world) users(role string) []string { return w.usersWhere(role, false) }

// usable are those of them that may log in: standing users stay when their version has ended.
func (w *world) usable(role string) []string { return w.usersWhere(role, true) }

func (w *world) usersWhere(role string, login bool) []string {
	w.t.Helper()
	text := w.postgres.MustQuery(w.t, w.database, `
		SELECT coalesce(string_agg(r.rolname, ' ' ORDER BY r.rolname), '') FROM pg_roles r
		WHERE strpos(shobj_description(r.oid, 'pg_authid'), $1) > 0 AND (r.rolcanlogin OR NOT $2)`, " role="+role+" ", login)
	return strings.Fields(text)
}

// snapshot describes every user and group of this world in full, passwords included: what differs
// between two snapshots was touched.
func (w *world) snapshot() string {
	w.t.Helper()
	return w.postgres.MustQuery(w.t, w.database, `
		SELECT coalesce(string_agg(concat_ws(' | ', a.oid, a.rolname, a.rolcanlogin, a.rolconnlimit, a.rolvaliduntil, a.rolpassword,
			shobj_description(a.oid, 'pg_authid'),
			(SELECT string_agg(array_to_string(setconfig, ','), ';') FROM pg_db_role_setting WHERE setrole = a.oid),
			(SELECT string_agg(roleid::regrole::text, ',' ORDER BY roleid) FROM pg_auth_members WHERE member = a.oid)
		), E'\n' ORDER BY a.rolname), '')
		FROM pg_authid a WHERE starts_with(a.rolname, $1) OR pg_has_role(a.oid, $2, 'MEMBER') AND NOT a.rolsuper`, w.role, w.group)
}

// login opens a connection with a connection_url as it is, as an application does whose machine
// trusts the database's authority, and finds out who it is.
func (w *world) login(ctx context.Context, url string) error {
	conn, err := connect(ctx, w.postgres, url)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var who string
	if err := conn.QueryRow(ctx, "SELECT current_user::text").Scan(&who); err != nil {
		return err
	}
	if who != w.group {
		return fmt.Errorf("acts as %s, not as %s", who, w.group)
	}
	return nil
}

func connect(ctx context.Context, postgres *pgtest.Server, url string) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	perHost := []*tls.Config{config.TLSConfig}
	for _, f := range config.Fallbacks {
		perHost = append(perHost, f.TLSConfig)
	}
	for _, c := range perHost {
		if c == nil || c.InsecureSkipVerify {
			return nil, errors.New("the connection_url does not ask for the full verification of the server")
		}
		c.RootCAs = x509.NewCertPool()
		c.RootCAs.AppendCertsFromPEM([]byte(postgres.CAPEM()))
	}
	config.ConnectTimeout = await.Patience
	return pgx.ConnectConfig(ctx, config)
}

// refused tells whether the server refused the credential itself.
func refused(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && (pgErr.Code == "28P01" || pgErr.Code == "28000")
}

// databasePlugin is the name of the plugin with which Vault's own database engine speaks to PostgreSQL.
const databasePlugin = "postgresql-database-plugin"

// ensureDatabasePlugin gives its binary.
func ensureDatabasePlugin(t testing.TB) string {
	t.Helper()
	return ensure(t, "database-plugin")
}

// ensure asks the script that finds, fetches or builds what tests need.
func ensure(t testing.TB, what string) string {
	t.Helper()
	command := exec.CommandContext(t.Context(), filepath.Join("..", "scripts", "ensure-"+what))
	command.Stderr = os.Stderr
	path, err := command.Output()
	require.NoError(t, err)
	return strings.TrimSpace(string(path))
}

func lastLines(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

func unmarshal(a answer, to any) error { return json.Unmarshal(a.Data, to) }
