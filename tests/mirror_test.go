package tests

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/await"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/fakechannels"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/vaulttest"
)

// An application reads nothing but KV, where the plugin keeps a copy, in the Vault that hosts it. It is let in
// at every moment; what somebody else writes there is noticed, told, and left alone until an operator decides.
func TestMirror(t *testing.T) {
	t.Parallel()
	vault := vaulttest.New(t, vaulttest.Options{}) // its own: the plugin's process is killed
	w := newWorld(t, "mirror", vault, pgtest.Shared(t))
	j := &mirroring{
		newsroom: &newsroom{world: w, webhook: fakechannels.NewWebhook(signingSecret, fakechannels.TLS())},
		kv:       newPlace(w, vault, "team"),
		app:      &kvReader{},
	}
	t.Cleanup(j.webhook.Close)
	w.write("channels/siem", map[string]any{"type": "webhook", "url": j.webhook.URL() + "/vault", "tls_ca": j.webhook.CA(), "signing_secret": signingSecret})
	reading := j.startReading(t)
	inSteps(t, &journey{world: w}, j, []step[*mirroring]{
		{"connection", (*mirroring).connection},
		{"created", (*mirroring).created},
		{"rotated", (*mirroring).rotated},
		{"rolled back", (*mirroring).rolledBack},
		{"never refused", func(j *mirroring) { reading.stop(); j.neverRefused() }},
		{"emergency", (*mirroring).emergency},
		{"changed by hand", (*mirroring).changedByHand},
		{"forced", (*mirroring).forced},
		{"removed", (*mirroring).removed},
	})
}

type mirroring struct {
	*newsroom
	kv    *place
	app   *kvReader
	begin func()
}

// reading is the application's loop, from the moment on at which there is a copy.
type reading struct{ stop func() }

func (j *mirroring) startReading(t *testing.T) reading {
	ctx, cancel := context.WithCancel(t.Context())
	begun := make(chan struct{})
	j.begin = func() { close(begun) }
	client := j.kv.reader()
	var loop sync.WaitGroup
	loop.Go(func() {
		select {
		case <-begun:
			j.app.keepReading(ctx, j.world, j.kv, client, inKV)
		case <-ctx.Done():
		}
	})
	r := reading{stop: func() { cancel(); loop.Wait() }}
	t.Cleanup(r.stop)
	return r
}

const inKV = "crm/database"

// connection proves that the policy of the documentation is enough for every check of a connection.
func (j *mirroring) connection() {
	j.write("connections/self", j.kv.connection(map[string]any{"allowed_paths": []string{j.kv.mount + "/intelliflow/*", j.kv.mount + "/intelliflow/crm/database"}}))
	var check struct {
		Lines []struct{ Check, Result, Detail string }
	}
	require.NoError(j.t, unmarshal(j.get("connections/self/check"), &check))
	require.Len(j.t, check.Lines, 4)
	for _, line := range check.Lines {
		assert.Equal(j.t, "pass", line.Result, "%s: %s", line.Check, line.Detail)
	}
	assert.Equal(j.t, j.kv.name, check.Lines[1].Detail, "one policy, and not even the default one")
}

func (j *mirroring) created() {
	t := j.t
	j.write("roles/"+j.role, j.roleFields(map[string]any{
		"grace_period": "1h", "mirror": j.kv.to("self", inKV),
		"mirror_fields": map[string]any{"DB_USER": "username", "DB_PASSWORD": "password", "DSN": "{{.connection_url}}"},
	}))
	c := j.kv.copied(inKV)
	require.Equal(t, 1, c.Version)
	j.holds(c, 1)
	j.begin()
	activated := j.awaitEvent("version.activated")
	assert.Contains(t, activated.Data.Fields, fakechannels.Field{Name: "path", Value: "creds/" + j.role})
	written := j.awaitEvent("mirror.written")
	assert.Contains(t, written.Data.Summary, "was copied to "+j.kv.to("self", inKV)+" as version 1")
}

// holds compares a copy with what creds/ gives.
func (j *mirroring) holds(c keptCopy, version int) {
	j.t.Helper()
	held := j.current(j.role)
	require.Equal(j.t, version, held.Version)
	id, _ := c.Fields["rotation_id"].(string)
	require.NotEmpty(j.t, id)
	require.Equal(j.t, map[string]any{
		"DB_USER": held.Username, "DB_PASSWORD": held.Password, "DSN": held.URL, "version": strconv.Itoa(version), "rotation_id": id,
	}, c.Fields)
	m := j.mirrorStatus(j.role).Mirror
	require.NotNil(j.t, m)
	require.Equal(j.t, []any{j.kv.to("self", inKV), version, c.Version, ""}, []any{m.Path, m.Version, m.Copy, m.Trouble})
}

func (j *mirroring) rotated() {
	for version := 2; version <= 3; version++ {
		r := j.rotation("rotate/"+j.role, nil)
		require.Equal(j.t, "succeeded", r.Outcome)
		c := j.kv.copied(inKV)
		require.Equal(j.t, version, c.Version)
		require.Equal(j.t, r.ID, c.Fields["rotation_id"])
		j.holds(c, version)
		j.letIn(version)
	}
}

// letIn waits until the application was let in with a version.
func (j *mirroring) letIn(version int) {
	j.t.Helper()
	await.Until(j.t, "the application to be let in with version "+strconv.Itoa(version), func() (bool, any) {
		return j.app.loggedInWith(strconv.Itoa(version)), nil
	})
}

func (j *mirroring) rolledBack() {
	r := j.rotation("rollback/"+j.role, nil)
	require.Equal(j.t, "succeeded", r.Outcome)
	c := j.kv.copied(inKV)
	require.Equal(j.t, 4, c.Version, "the earlier one, written again")
	j.holds(c, 2)
}

func (j *mirroring) neverRefused() {
	assert.Empty(j.t, j.app.failed, "whatever KV says must log in")
	assert.Greater(j.t, j.app.logins, 5)
}

// emergency ends what leaked at once, and the copy follows.
func (j *mirroring) emergency() {
	e := j.newsroom.emergency(map[string]any{"reason": "the copy was printed"})
	require.Equal(j.t, "contained", e.Status, e.NextSteps)
	await.Until(j.t, "the copy to follow", func() (bool, any) {
		c := j.kv.copied(inKV)
		return c.Version == 5 && j.mirrorStatus(j.role).Rotation == nil, c.Version
	})
	c := j.kv.copied(inKV)
	j.holds(c, 4)
	require.NoError(j.t, j.login(j.t.Context(), c.Fields["DSN"].(string)))
}

// changedByHand shows that a foreign version keeps rotations from beginning, and is told once it is seen.
func (j *mirroring) changedByHand() {
	t := j.t
	j.kv.byHand(inKV, "DB_USER=by-hand", "DB_PASSWORD=x")
	const sentence = "version 6 there was written by somebody else after ours, 5, and is not overwritten unless the role has mirror_force=true"
	assert.Contains(t, j.preflight(), "mirror "+j.kv.to("self", inKV)+": fail: "+sentence)
	a := j.call(t.Context(), http.MethodPut, "rotate/"+j.role, nil)
	assert.Equal(t, http.StatusBadRequest, a.Status)
	assert.Equal(t, "preflight: mirror "+j.kv.to("self", inKV)+": "+sentence, a.sentence())
	assert.Equal(t, 4, j.current(j.role).Version, "nothing began")

	// A process that begins compares its roles with the world outside, as each does daily.
	killed, err := j.vault.KillPlugin(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, killed)
	j.status(j.role)
	changed := j.awaitEvent("mirror.changed")
	assert.Equal(t, "warning", changed.Data.Severity)
	assert.Contains(t, changed.Data.Summary, "version 6 there was written by somebody else after ours, 5; it is left as it is")
	assert.Contains(t, j.mirrorStatus(j.role).Mirror.Trouble, "is not ours any more: version 6 there was written by somebody else")
	assert.Equal(t, map[string]any{"DB_USER": "by-hand", "DB_PASSWORD": "x"}, j.kv.copied(inKV).Fields, "it is left as it is")
}

// preflight gives the checklist as sentences.
func (w *world) preflight() (lines []string) {
	w.t.Helper()
	var list struct {
		Lines []struct{ Check, Result, Detail string }
	}
	require.NoError(w.t, unmarshal(w.get("preflight/"+w.role), &list))
	for _, l := range list.Lines {
		lines = append(lines, l.Check+": "+l.Result+": "+l.Detail)
	}
	return lines
}

func (j *mirroring) forced() {
	j.write("roles/"+j.role, map[string]any{"mirror_force": true})
	await.Until(j.t, "the copy to be ours again", func() (bool, any) {
		m := j.mirrorStatus(j.role).Mirror
		return m.Copy == 7 && m.Trouble == "", m
	})
	j.holds(j.kv.copied(inKV), 4)
	require.Equal(j.t, 5, j.awaitRotation(j.role))
	await.Until(j.t, "the rotation to end", func() (bool, any) {
		return j.mirrorStatus(j.role).Rotation == nil, j.mirrorStatus(j.role)
	})
	j.holds(j.kv.copied(inKV), 5)
}

// removed leaves the data where it is.
func (j *mirroring) removed() {
	t := j.t
	before := j.kv.copied(inKV)
	j.write("roles/"+j.role, map[string]any{"mirror": "", "mirror_force": false, "mirror_fields": map[string]any{}})
	require.Equal(t, "succeeded", j.rotation("rotate/"+j.role, nil).Outcome)
	await.Until(t, "the copy to be forgotten", func() (bool, any) {
		m := j.mirrorStatus(j.role).Mirror
		return m == nil, m
	})
	assert.Equal(t, before, j.kv.copied(inKV))
	j.tellsNothingSecret()
}

// tellsNothingSecret looks into everything that the receiver of webhooks got.
func (j *mirroring) tellsNothingSecret() {
	j.t.Helper()
	var told []string
	for _, e := range j.webhook.Events() {
		told = append(told, e.Data.Event)
	}
	for _, event := range []string{"version.activated", "mirror.written", "mirror.changed", "rotation.succeeded"} {
		assert.True(j.t, slices.Contains(told, event), event)
	}
	secrets := map[string]string{"the secret id": j.kv.secretID, "the administrator's password": j.password}
	for version := 1; version <= 6; version++ {
		if a := j.call(j.t.Context(), http.MethodGet, "creds/"+j.role+"/versions/"+strconv.Itoa(version), nil); a.ok() {
			secrets["the password of version "+strconv.Itoa(version)] = a.fields()["password"].(string)
		}
	}
	require.Greater(j.t, len(secrets), 3)
	for _, r := range j.webhook.Requests() {
		for what, secret := range secrets {
			if strings.Contains(string(r.Body), secret) { // and no failure prints the text
				j.t.Errorf("%s was told", what)
			}
		}
	}
}
