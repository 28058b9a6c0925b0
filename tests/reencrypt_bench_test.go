package tests

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/vaulttest"
)

const (
	// benchReencryptRows names the variable by which fewer rows, or more, are measured.
	benchReencryptRows = "REENCRYPT_ROWS"
	// benchPage is how many rows every lane takes at a time: as many as a pass does.
	benchPage = 1000
	// mostMemory is what the plugin's process may have, however many rows there are.
	mostMemory = 200e6
)

// BenchmarkReencrypt compares the re-encryption of a table, from the request that starts it
// until its last row is rewritten, the count before it included, with a loop of bare updates
// of the same column in the same pages, whose values the server makes (bare) or the client
// sends (sent), and with what a client does that reads pages, lets transit rewrap each by
// one request, and updates: all in one Vault, on one PostgreSQL over TLS, that is durable,
// and on tables that begin alike. REENCRYPT_ROWS is how many rows
// there are, by default a million.
func BenchmarkReencrypt(b *testing.B) {
	rows := 1_000_000
	if text := os.Getenv(benchReencryptRows); text != "" {
		var err error
		rows, err = strconv.Atoi(text)
		require.NoError(b, err, benchReencryptRows)
	}
	r := newRewriting(b, rows)
	var bare, sent, ours, transit time.Duration
	var first, last uint64
	for b.Loop() {
		r.fill(b)
		bare += r.bare(b)
		sent += r.sent(b)
		took, before, after := r.plugin(b)
		ours, first, last = ours+took, max(first, before), max(last, after)
		transit += r.transit(b)
	}
	total := float64(b.N * rows)
	b.ReportMetric(total/bare.Seconds(), "bare-rows/s")
	b.ReportMetric(total/sent.Seconds(), "sent-rows/s")
	b.ReportMetric(total/ours.Seconds(), "plugin-rows/s")
	b.ReportMetric(total/transit.Seconds(), "transit-rows/s")
	b.ReportMetric(bare.Seconds()/ours.Seconds(), "plugin/bare")
	b.ReportMetric(sent.Seconds()/ours.Seconds(), "plugin/sent")
	b.ReportMetric(transit.Seconds()/ours.Seconds(), "plugin/transit")
	b.ReportMetric(float64(first)/1e6, "first-half-MB")
	b.ReportMetric(float64(last)/1e6, "last-half-MB")
	b.ReportMetric(0, "ns/op")
	require.Less(b, float64(max(first, last)), mostMemory, "the plugin's memory must not depend on the rows")
}

// rewriting is a Vault with a key that both engines have, and a PostgreSQL.
type rewriting struct {
	vault    *vaulttest.Server
	postgres *pgtest.Server
	conn     *pgx.Conn
	sealer   cipher.AEAD // version 1
	rows     int
}

const (
	bareTable    = "public.cards_bare"
	sentTable    = "public.cards_sent"
	pluginTable  = "public.cards_plugin"
	transitTable = "public.cards_transit"
)

func newRewriting(b *testing.B, rows int) *rewriting {
	r := &rewriting{rows: rows}
	r.vault = vaulttest.New(b, vaulttest.Options{LogLevel: "info"})
	mountPlugin(b, r.vault)
	require.NoError(b, r.vault.EnableSecrets(b.Context(), "transit"))
	r.postgres = pgtest.New(b, pgtest.Options{Settings: map[string]string{
		"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "wal_level": "replica",
		"log_statement": "none", "log_connections": "off", "autovacuum": "off", "shared_buffers": "256MB", "max_wal_size": "8GB",
	}})
	var err error
	r.conn, err = r.postgres.Connect(b.Context(), pgtest.Superuser, r.postgres.SuperuserPassword(), "postgres")
	require.NoError(b, err)
	b.Cleanup(func() { _ = r.conn.Close(context.WithoutCancel(b.Context())) })

	r.write(b, "transit/keys/cards", map[string]any{"exportable": true})
	exported := r.get(b, "transit/export/encryption-key/cards")
	r.write(b, "transit/keys/cards/rotate", nil)
	r.write(b, "rotation/connections/main", map[string]any{
		"type": "postgresql", "connection_url": r.postgres.TemplateURL("postgres"), "tls_ca": r.postgres.CAPEM(),
		"username": pgtest.Superuser, "password": r.postgres.SuperuserPassword(), "allowed_tables": "public.cards_*",
	})
	r.write(b, "rotation/roles/cards", map[string]any{"type": "encryption-key", "import_key": exported.Text})
	r.write(b, "rotation/rotate/cards", nil)
	var keys struct{ Keys map[string]string }
	require.NoError(b, unmarshal(exported, &keys))
	raw, err := base64.StdEncoding.DecodeString(keys.Keys["1"])
	require.NoError(b, err)
	block, err := aes.NewCipher(raw)
	require.NoError(b, err)
	r.sealer, err = cipher.NewGCM(block)
	require.NoError(b, err)
	return r
}

// write makes a request to any mount, which must succeed.
func (r *rewriting) write(b *testing.B, path string, body map[string]any) answer {
	b.Helper()
	return r.request(b, http.MethodPut, path, body)
}

func (r *rewriting) get(b *testing.B, path string) answer {
	b.Helper()
	return r.request(b, http.MethodGet, path, nil)
}

func (r *rewriting) request(b *testing.B, method, path string, body map[string]any) answer {
	b.Helper()
	engine, below, _ := strings.Cut(path, "/")
	a := mount{r.vault.Address(), r.vault.Token(), engine}.call(b.Context(), method, below, body)
	require.True(b, a.ok(), "%s: %d %s", path, a.Status, a.sentence())
	return a
}

// seal encrypts as version 1 does, for there are very many texts.
func (r *rewriting) seal(plaintext []byte) string {
	nonce := make([]byte, r.sealer.NonceSize(), 64+len(plaintext))
	_, _ = rand.Read(nonce)
	return "vault:v1:" + base64.StdEncoding.EncodeToString(r.sealer.Seal(nonce, nonce, plaintext, nil))
}

func (r *rewriting) exec(b *testing.B, statements ...string) {
	b.Helper()
	for _, statement := range statements {
		_, err := r.conn.Exec(b.Context(), statement)
		require.NoError(b, err, statement)
	}
}

// fill makes the tables, each with the same rows under version 1.
func (r *rewriting) fill(b *testing.B) {
	b.Helper()
	for i, table := range []string{bareTable, sentTable, pluginTable, transitTable} {
		r.exec(b, "DROP TABLE IF EXISTS "+table, "CREATE TABLE "+table+" (id bigint PRIMARY KEY, holder text, card text NOT NULL)")
		if i > 0 {
			r.exec(b, fmt.Sprintf("INSERT INTO %s SELECT * FROM %s ORDER BY id", table, bareTable))
			continue
		}
		n := 0
		_, err := r.conn.CopyFrom(b.Context(), pgx.Identifier{"public", "cards_bare"}, []string{"id", "holder", "card"}, pgx.CopyFromFunc(func() ([]any, error) {
			if n++; n > r.rows {
				return nil, nil
			}
			return []any{n, "a customer", r.seal(fmt.Appendf(nil, "4111111111111111 of %d", n))}, nil
		}))
		require.NoError(b, err)
	}
	r.exec(b, "VACUUM (FREEZE, ANALYZE)")
}

// bare updates all rows, page after page.
func (r *rewriting) bare(b *testing.B) time.Duration {
	b.Helper()
	r.exec(b, "CHECKPOINT")
	begin := time.Now()
	for from := 0; from < r.rows; from += benchPage {
		_, err := r.conn.Exec(b.Context(), "UPDATE "+bareTable+" SET card = 'vault:v2:' || substr(card, 10) WHERE id > $1 AND id <= $2", from, from+benchPage)
		require.NoError(b, err)
	}
	took := time.Since(begin)
	r.requireFollowed(b, bareTable)
	return took
}

// sent updates all rows, page after page, with values that come from outside.
func (r *rewriting) sent(b *testing.B) time.Duration {
	b.Helper()
	r.exec(b, "CHECKPOINT")
	value := strings.Replace(r.seal([]byte("4111111111111111 of 100000")), ":v1:", ":v2:", 1)
	begin := time.Now()
	for from := 0; from < r.rows; from += benchPage {
		var ids []int64
		var cards []string
		for id := from + 1; id <= min(from+benchPage, r.rows); id++ {
			ids, cards = append(ids, int64(id)), append(cards, value)
		}
		r.update(b, sentTable, ids, cards)
	}
	took := time.Since(begin)
	r.requireFollowed(b, sentTable)
	return took
}

func (r *rewriting) update(b *testing.B, table string, ids []int64, cards []string) {
	b.Helper()
	_, err := r.conn.Exec(b.Context(), "UPDATE "+table+" t SET card = u.card FROM unnest($1::bigint[], $2::text[]) u(id, card) WHERE t.id = u.id", ids, cards)
	require.NoError(b, err)
}

// transit is the client that an application would have without us.
func (r *rewriting) transit(b *testing.B) time.Duration {
	b.Helper()
	r.exec(b, "CHECKPOINT")
	type item struct {
		Ciphertext string `json:"ciphertext"`
		Error      string `json:"error,omitempty"`
	}
	begin := time.Now()
	for last := int64(0); ; {
		rows, err := r.conn.Query(b.Context(), "SELECT id, card FROM "+transitTable+" WHERE id > $1 ORDER BY id LIMIT $2", last, benchPage)
		require.NoError(b, err)
		var ids []int64
		var items []item
		var id int64
		var card string
		_, err = pgx.ForEachRow(rows, []any{&id, &card}, func() error {
			ids, items = append(ids, id), append(items, item{Ciphertext: card})
			return nil
		})
		require.NoError(b, err)
		if len(ids) == 0 {
			break
		}
		last = ids[len(ids)-1]
		var answered struct {
			Data struct {
				Results []item `json:"batch_results"`
			} `json:"data"`
		}
		r.post(b, "transit/rewrap/cards", map[string]any{"batch_input": items}, &answered)
		require.Len(b, answered.Data.Results, len(ids))
		cards := make([]string, len(ids))
		for i, one := range answered.Data.Results {
			require.Empty(b, one.Error)
			cards[i] = one.Ciphertext
		}
		r.update(b, transitTable, ids, cards)
	}
	took := time.Since(begin)
	r.requireFollowed(b, transitTable)
	return took
}

// post makes a request whose answer is read once, as a client does that cares for its pace.
func (r *rewriting) post(b *testing.B, path string, body, into any) {
	raw, err := json.Marshal(body)
	require.NoError(b, err)
	request, err := http.NewRequestWithContext(b.Context(), http.MethodPost, r.vault.Address()+"/v1/"+path, bytes.NewReader(raw))
	require.NoError(b, err)
	request.Header.Set("X-Vault-Token", r.vault.Token())
	response, err := httpClient.Do(request)
	require.NoError(b, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	require.NoError(b, err)
	require.Equal(b, http.StatusOK, response.StatusCode)
	require.NoError(b, json.Unmarshal(text, into))
}

// plugin lets the rows follow, and watches the memory of the plugin's process, in the first
// half of the rows and in the last.
func (r *rewriting) plugin(b *testing.B) (took time.Duration, first, last uint64) {
	b.Helper()
	r.exec(b, "CHECKPOINT")
	const target = "rotation/reencrypt/cards/targets/cards"
	r.write(b, target, map[string]any{"connection": "main", "table": pluginTable, "key_columns": "id", "columns": "card"})
	begin := time.Now()
	r.write(b, "rotation/reencrypt/cards/run", nil)
	for {
		s := reencryptionOf(b, r.get(b, "rotation/reencrypt/cards"))
		t := s.Targets["cards"]
		require.NotContains(b, []string{"failing", "action_required"}, s.State, s.Reason)
		memory := pluginMemory(b, r.vault)
		if t.Done*2 < r.rows {
			first = max(first, memory)
		} else {
			last = max(last, memory)
		}
		if t.State == "done" {
			require.Equal(b, r.rows, t.Changed)
			break
		}
		wait(b, 50*time.Millisecond)
	}
	took = time.Since(begin)
	r.requireFollowed(b, pluginTable)
	r.write(b, "rotation/reencrypt/cards/cancel", nil)
	return took, first, last
}

func (r *rewriting) requireFollowed(b *testing.B, table string) {
	b.Helper()
	var followed, distinct int
	err := r.conn.QueryRow(b.Context(), "SELECT count(*) FILTER (WHERE starts_with(card, 'vault:v2:')), count(DISTINCT id) FROM "+table).Scan(&followed, &distinct)
	require.NoError(b, err)
	require.Equal(b, []int{r.rows, r.rows}, []int{followed, distinct})
}
