package tests

import (
	"context"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/await"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/fakeapi"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/fakechannels"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/runbook"
)

// The runbook is true: each of its commands is run, in order, as an operator does, and prints what the
// page says. What takes days takes seconds, since the engine's clock is moved.
func TestRunbook(t *testing.T) {
	t.Parallel()
	_, blocks := readRunbook(t)
	o := newOperator(t)
	for _, b := range blocks {
		if b.Kubernetes {
			continue
		}
		if !t.Run(fmt.Sprintf("line %d", b.Line), func(t *testing.T) {
			o.t, o.world.t = t, t
			o.do(b)
		}) {
			t.FailNow()
		}
	}
	o.t, o.world.t = t, t
	assert.Empty(t, o.events, "the page does not mention that this happens")
	o.told()
}

// An operator sits at a shell, with the runbook before them. What they must not have is the database,
// the providers' dashboards, and the application: these are other people's.
type operator struct {
	*keeper
	dir       string
	env       []string
	slack     *fakechannels.Slack
	pagerduty *fakechannels.PagerDuty
	openai    *fakeapi.OpenAI
	anthropic *fakeapi.Anthropic
	stripe    *fakeapi.Stripe
	oldStripe string
	session   *pgx.Conn
	// unwell is an application that does not bear what it reads next.
	unwell atomic.Bool
	events map[string]func()
	// standIns are what the page says of the world, and what the test has in its place.
	standIns map[string]string
}

func newOperator(t *testing.T) *operator {
	vault, clock := newClockedVault(t)
	o := &operator{
		keeper: newKeeper(t, "runbook", vault, pgtest.Shared(t), clock), dir: t.TempDir(),
		slack: started(t, fakechannels.NewSlack(fakechannels.TLS())), pagerduty: started(t, fakechannels.NewPagerDuty(routingKey, fakechannels.TLS())),
		openai: started(t, fakeapi.NewOpenAI()), anthropic: started(t, fakeapi.NewAnthropic()), stripe: started(t, fakeapi.NewStripe()),
	}
	require.NoError(t, vault.Mount(t.Context(), "rotation"))
	o.path, o.role = "rotation", "database"
	o.superuser(
		fmt.Sprintf("CREATE ROLE %s_cards LOGIN PASSWORD '%s'", o.database, o.password),
		fmt.Sprintf("GRANT USAGE ON SCHEMA billing TO %s_cards", o.database),
		fmt.Sprintf("GRANT SELECT (id, number), UPDATE (number) ON billing.cards TO %s_cards", o.database),
		fmt.Sprintf("GRANT pg_read_all_stats TO %s_cards", o.database),
	)
	o.events = map[string]func(){
		"the application logs in":                            o.logsIn,
		"the application stores cards":                       func() { o.store("customer-data", 1, 20) },
		"somebody makes keys in the two consoles":            o.makesKeys,
		"somebody takes a right from the administrator":      func() { o.superuser("ALTER ROLE " + o.admin + " NOCREATEROLE") },
		"the right is given back":                            func() { o.superuser("ALTER ROLE " + o.admin + " CREATEROLE") },
		"the application does not bear the next version":     func() { o.unwell.Store(true) },
		"the application is mended":                          func() { o.unwell.Store(false) },
		"the application does not bear the version after it": func() { o.unwell.Store(true) },
		"the application is mended once more":                func() { o.unwell.Store(false) },
		"the owner of the account expires the old key":       func() { o.stripe.ExpireByHand(o.oldStripe) },
	}
	o.prepare()
	return o
}

// prepare gives the operator a shell, the files and the variables of which the page speaks.
func (o *operator) prepare() {
	health := o.health()
	o.standIns = map[string]string{
		"type=openai ":           "type=openai base_url=" + o.openai.BaseURL() + " allow_insecure_http=true ",
		"type=anthropic ":        "type=anthropic base_url=" + o.anthropic.URL() + " allow_insecure_http=true ",
		"type=stripe":            "type=stripe base_url=" + o.stripe.URL() + " allow_insecure_http=true",
		"type=slack ":            "type=slack tls_ca=@slack-ca.pem ",
		"type=pagerduty ":        "type=pagerduty tls_ca=@pagerduty-ca.pem url=" + o.pagerduty.URL() + " ",
		"ca_cert=@vault-ca.pem ": "allow_insecure_http=true ",
		"type=http-check ":       "type=http-check tls_ca=@health-ca.pem ",
	}
	stripe, _ := o.stripe.MakeRestricted("present")
	anthropic, _ := o.anthropic.MakeByHand("present")
	o.oldStripe = stripe
	for name, content := range map[string]string{
		"db-ca.pem": o.postgres.CAPEM(), "db-admin-password": o.password, "cards-password": o.password,
		"slack-webhook-url": o.slack.WebhookURL(), "slack-ca.pem": o.slack.CA(), "pagerduty-ca.pem": o.pagerduty.CA(),
		"pagerduty-routing-key": routingKey, "health-ca.pem": certificateOf(health),
		"openai-admin-key": o.openai.AdminKey(), "anthropic-admin-key": o.anthropic.AdminKey(),
		"stripe-key": stripe, "anthropic-key": anthropic, "state": "",
	} {
		o.file(name, content)
	}
	bin := filepath.Join(o.dir, "bin")
	require.NoError(o.t, os.Mkdir(bin, 0o700))
	command := o.vault.Command(o.t.Context())
	require.NoError(o.t, os.Symlink(command.Path, filepath.Join(bin, "vault")))
	o.keepsKV()
	o.runs(o.t, "api", "web")
	o.env = append(command.Env, "PATH="+bin+":/usr/bin:/bin",
		"DB_HOST="+strings.TrimPrefix(strings.SplitN(o.postgres.TemplateURL("x"), "/x?", 2)[0], "postgresql://{{username}}:{{password}}@"),
		"DB_NAME="+o.database, "DB_ADMIN="+o.admin, "DB_GROUP="+o.group, "CARDS_USER="+o.database+"_cards",
		"OPENAI_PROJECT="+o.openai.Project(), "HEALTH_URL="+health.URL+"/health",
	)
}

func (o *operator) file(name, content string) {
	o.t.Helper()
	require.NoError(o.t, os.WriteFile(filepath.Join(o.dir, name), []byte(content), 0o600))
}

// do runs a block, once or until it prints what it should.
func (o *operator) do(b runbook.Block) {
	o.t.Helper()
	for _, what := range b.Meanwhile {
		require.Contains(o.t, o.events, what, "nobody knows how that happens")
		o.events[what]()
		delete(o.events, what)
	}
	if b.After > 0 {
		o.pass(b.After)
	}
	if !b.Until {
		printed, err := o.shell(b.Code)
		require.NoError(o.t, err, "%s\n\n%s", b.Code, printed)
		require.Empty(o.t, b.Missing(printed), "is a line that was not printed by:\n%s\n\nIt printed:\n%s", b.Code, printed)
		return
	}
	require.NotEmpty(o.t, b.Prints, "what is waited for?")
	tick, last := 0, ""
	await.Within(o.t, 3*await.Patience, b.Code, func() (bool, any) {
		if tick++; tick%8 != 1 {
			o.goOn()
			return false, last
		}
		printed, err := o.shell(b.Code)
		missing := b.Missing(printed)
		last = fmt.Sprintf("%v, without %q:\n%s", err, missing, printed)
		return err == nil && missing == "", last
	})
}

// goOn lets time go by between two looks, in steps that the engine does not take for a pause of its
// process: it ends a version only after it has served readers for as long as they may rely on it. Who
// asks for that earlier is refused by an engine that has noticed the time, so that more steps may follow.
func (o *operator) goOn() {
	o.t.Helper()
	for range 10 {
		o.pass(clockStep)
		refused := func(role string) bool {
			return strings.Contains(o.call(o.t.Context(), http.MethodPut, "retire/"+role, nil).sentence(), "may be in use until")
		}
		if !slices.ContainsFunc([]string{"openai", "customer-data"}, refused) {
			return
		}
	}
}

// shell runs commands as a terminal does that stays open: what a block sets is there for the next.
func (o *operator) shell(code string) (printed string, err error) {
	for is, standIn := range o.standIns {
		code = strings.ReplaceAll(code, is, standIn)
	}
	ctx, cancel := context.WithTimeout(o.t.Context(), await.Patience)
	defer cancel()
	command := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", "set -a; source state\n"+code+"\nexport -p > state")
	command.Dir, command.Env = o.dir, o.env
	output, err := command.CombinedOutput()
	return string(output), err
}

// health is an endpoint of the application, which is well when it can log in with what it reads.
func (o *operator) health() *httptest.Server {
	reads, role, postgres := o.mount, o.role, o.postgres
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := reads.creds(r.Context(), role)
		var conn *pgx.Conn
		if err == nil {
			conn, err = connect(r.Context(), postgres, c.URL)
		}
		if err != nil || o.unwell.Load() {
			if conn != nil {
				_ = conn.Close(context.WithoutCancel(r.Context()))
			}
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = fmt.Fprintln(w, `{"database": "down"}`)
			return
		}
		defer conn.Close(context.WithoutCancel(r.Context()))
		_, _ = fmt.Fprintln(w, `{"database": "up"}`)
	}))
	o.t.Cleanup(server.Close)
	return server
}

func certificateOf(server *httptest.Server) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
}

// logsIn is the application, which has a session of the credential that is about to leak.
func (o *operator) logsIn() {
	conn, err := connect(o.t.Context(), o.postgres, o.current("database").URL)
	require.NoError(o.t, err)
	o.session = conn
}

// makesKeys are the owners of two accounts, who make a key beside the one in use.
func (o *operator) makesKeys() {
	stripe, _ := o.stripe.MakeRestricted("next")
	anthropic, _ := o.anthropic.MakeByHand("next")
	o.file("new-stripe-key", stripe)
	o.file("new-anthropic-key", anthropic)
}

// told looks at what people got to see, of what the page says that they are told.
func (o *operator) told() {
	o.t.Helper()
	require.NotNil(o.t, o.session)
	require.Error(o.t, o.session.Ping(o.t.Context()), "the sessions of what leaked are ended")
	await.Until(o.t, "the incident in Slack", func() (bool, any) {
		return slices.ContainsFunc(o.slack.Messages(), func(m fakechannels.SlackMessage) bool { return strings.Contains(m.Text, "incident.closed") }), o.slack.Messages()
	})
	assert.NotEmpty(o.t, o.pagerduty.Alerts())
}

// keepsKV is Vault's KV, in which applications that were not moved yet look, and who may write there.
func (o *operator) keepsKV() {
	o.t.Helper()
	vault := o.vault.Client()
	require.NoError(o.t, vault.Sys().MountWithContext(o.t.Context(), "secret", &api.MountInput{Type: "kv", Options: map[string]string{"version": "2"}}))
	require.NoError(o.t, vault.Sys().EnableAuthWithOptionsWithContext(o.t.Context(), "approle", &api.EnableAuthOptions{Type: "approle"}))
	require.NoError(o.t, vault.Sys().PutPolicyWithContext(o.t.Context(), "rotation", o.keeperPolicy()))
	w := func(path string, data map[string]any) map[string]any {
		answer, err := vault.Logical().WriteWithContext(o.t.Context(), path, data)
		require.NoError(o.t, err)
		if answer == nil {
			return nil
		}
		return answer.Data
	}
	w("auth/approle/role/rotation", map[string]any{"token_policies": "rotation", "token_no_default_policy": true, "token_ttl": "1h", "token_max_ttl": "24h"})
	id, err := vault.Logical().ReadWithContext(o.t.Context(), "auth/approle/role/rotation/role-id")
	require.NoError(o.t, err)
	o.file("self-role-id", id.Data["role_id"].(string))
	o.file("self-secret-id", w("auth/approle/role/rotation/secret-id", nil)["secret_id"].(string))
}

// keeperPolicy is the policy that the documentation has.
func (o *operator) keeperPolicy() string {
	o.t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "deploy", "vault", "rotation-policy.hcl"))
	require.NoError(o.t, err)
	return string(text)
}

// runs are applications: each reads what it logs in with, and keeps one session of the version that it
// read last.
func (o *operator) runs(t *testing.T, names ...string) {
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		all.Wait()
	})
	for _, name := range names {
		all.Go(func() { keepSession(ctx, o.mount, o.postgres, o.role, name) })
	}
}

func keepSession(ctx context.Context, reads mount, postgres *pgtest.Server, role, application string) {
	var session *pgx.Conn
	version := 0
	leave := func() {
		if session != nil {
			_ = session.Close(context.WithoutCancel(ctx))
		}
	}
	defer func() { leave() }()
	ticker := time.NewTicker(250 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		a := reads.call(ctx, http.MethodGet, "creds/"+role, nil)
		var c credential
		if !a.ok() || unmarshal(a, &c) != nil || c.Version == version && session.Ping(ctx) == nil {
			continue
		}
		next, err := connect(ctx, postgres, c.URL+"&application_name="+application)
		if err != nil {
			continue // the role is not there yet, or what was read has just ended: read again
		}
		leave()
		session, version = next, c.Version
	}
}
