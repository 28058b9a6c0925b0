package tests

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/await"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
)

const (
	busyRows   = 400
	busyRounds = 6
	busyPace   = 150 // rows a second, so that a pass takes long enough to be cut off
)

// An application reads and writes the rows all the while that versions rotate, their data follows, the plugin's
// process is killed and PostgreSQL restarts. It never reads anything but what it wrote last; at the end every row is
// of the newest version, and the earlier ones have ended.
func TestNothingIsLostWhileDataFollows(t *testing.T) {
	t.Parallel()
	vault, clock := newClockedVault(t)
	b := &busy{keeper: newKeeper(t, "busy", vault, pgtest.New(t), clock), dice: rand.New(rand.NewPCG(crashSeed, 1))}
	b.moving = &b.onTheWay
	b.write("roles/"+b.role, keyRole(map[string]any{"max_rows_per_second": busyPace}))
	b.store(b.role, 1, busyRows)
	b.write("reencrypt/"+b.role+"/targets/cards", cardsTarget(nil))
	stop := b.start()

	versions, kills, restarts, cut := 1, 0, 0, 0
	for round := 1; round <= busyRounds; round++ {
		versions = b.awaitAbove(b.role, versions)
		b.within()
		if round%3 == 0 {
			require.NoError(t, b.postgres.Restart(t.Context()))
			restarts++
		}
		before := b.under()[fmt.Sprintf("vault:v%d", versions)]
		n, err := vault.KillPlugin(t.Context())
		require.NoError(t, err)
		kills += n
		if before > 0 && before < busyRows {
			cut++
		}
		if round == busyRounds/2 { // the versions so far end under full load
			b.allFollow(versions)
		}
	}
	b.allFollow(versions)
	stop()

	t.Logf("%d writes and %d reads beside %d rotations; %d kills, %d of them amid a pass, and %d restarts of PostgreSQL; %d requests and %d statements were repeated",
		b.writes.Load(), b.reads.Load(), versions-1, kills, cut, restarts, b.repeated.Load(), b.retried.Load())
	assert.Empty(t, b.broken)
	assert.GreaterOrEqual(t, versions, busyRounds+1)
	assert.GreaterOrEqual(t, kills, busyRounds)
	assert.GreaterOrEqual(t, cut, 2)
	assert.Greater(t, b.writes.Load(), int64(2*busyRows))
	assert.Greater(t, b.reads.Load(), int64(2*busyRows))
	b.finally(versions)
}

// busy is an application, and what it knows of its rows.
type busy struct {
	*keeper
	dice *rand.Rand
	// onTheWay is held by those who have a ciphertext in their hands, since nobody has one for as long as
	// settle_period: the clock does not move meanwhile.
	onTheWay sync.RWMutex
	rows     [busyRows + 1]busyRow

	writes, reads, repeated, retried atomic.Int64

	mu     sync.Mutex
	broken []string
}

// busyRow is what a row may hold: the number of its last write that is known to be stored, or of one that was tried
// since.
type busyRow struct {
	writing       sync.Mutex
	stored, tried atomic.Int64
}

// start lets the application run until it is stopped.
func (b *busy) start() (stop func()) {
	ctx, cancel := context.WithCancel(b.t.Context())
	var all sync.WaitGroup
	for i := range 3 {
		for j, do := range []func(context.Context, *pgx.Conn, int) error{b.writeRow, b.readRow} {
			dice := rand.New(rand.NewPCG(crashSeed, uint64(10+2*i+j)))
			all.Go(func() {
				b.keepOn(ctx, func(conn *pgx.Conn) error { return do(ctx, conn, 1+dice.IntN(busyRows)) })
			})
		}
	}
	stop = func() {
		cancel()
		all.Wait()
	}
	b.t.Cleanup(stop)
	return stop
}

// keepOn does something again and again, in a session that is opened anew when it broke.
func (b *busy) keepOn(ctx context.Context, do func(*pgx.Conn) error) {
	pause := time.NewTicker(5 * time.Millisecond)
	defer pause.Stop()
	var conn *pgx.Conn
	var err error
	for ctx.Err() == nil {
		if conn == nil {
			conn, err = b.postgres.Connect(ctx, pgtest.Superuser, b.postgres.SuperuserPassword(), b.database)
		}
		if err == nil {
			err = do(conn)
		}
		if err != nil {
			b.retried.Add(1)
			if conn != nil {
				_ = conn.Close(context.WithoutCancel(ctx))
			}
			conn, err = nil, nil
		}
		<-pause.C
	}
	if conn != nil {
		_ = conn.Close(context.WithoutCancel(ctx))
	}
}

// request repeats a request while Vault answers with a 5xx or not at all: so it is for a moment after the plugin's
// process was killed.
func (b *busy) request(ctx context.Context, path string, body map[string]any) (a answer, err error) {
	pause := time.NewTicker(20 * time.Millisecond)
	defer pause.Stop()
	for ctx.Err() == nil {
		a = b.call(ctx, http.MethodPut, path, body)
		if a.Status != 0 && a.Status < http.StatusInternalServerError {
			return a, nil
		}
		b.repeated.Add(1)
		<-pause.C
	}
	return a, ctx.Err()
}

// numbered is the plaintext of a row's write.
func numbered(id int, write int64) string { return fmt.Sprintf("%s, write %d", cardNumber(id), write) }

// writeRow encrypts and stores. Should the statement fail, it may have been done all the same.
func (b *busy) writeRow(ctx context.Context, conn *pgx.Conn, id int) error {
	row := &b.rows[id]
	row.writing.Lock()
	defer row.writing.Unlock()
	b.onTheWay.RLock()
	defer b.onTheWay.RUnlock()
	write := row.tried.Load() + 1
	a, err := b.request(ctx, "encrypt/"+b.role, map[string]any{"plaintext": coded(numbered(id, write))})
	if err != nil {
		return err
	}
	var made struct{ Ciphertext string }
	if err := unmarshal(a, &made); !a.ok() || err != nil {
		b.breaks("row %d was not encrypted: %d %s %v", id, a.Status, a.sentence(), err)
		return nil
	}
	row.tried.Store(write)
	if _, err := conn.Exec(ctx, "UPDATE billing.cards SET number = $1 WHERE id = $2", made.Ciphertext, id); err != nil {
		return err
	}
	row.stored.Store(write)
	b.writes.Add(1)
	return nil
}

// readRow reads and decrypts in one transaction: no version ends while one lives that may have read what it made.
func (b *busy) readRow(ctx context.Context, conn *pgx.Conn, id int) error {
	row := &b.rows[id]
	b.onTheWay.RLock()
	defer b.onTheWay.RUnlock()
	least := row.stored.Load()
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		var ciphertext string
		if err := tx.QueryRow(ctx, "SELECT number FROM billing.cards WHERE id = $1", id).Scan(&ciphertext); err != nil {
			return err
		}
		most := row.tried.Load()
		a, err := b.request(ctx, "decrypt/"+b.role, map[string]any{"ciphertext": ciphertext})
		if err != nil {
			return err
		}
		plaintext, err := decoded(a)
		switch {
		case !a.ok() || err != nil:
			b.breaks("row %d under %.9s cannot be read: %d %s %v", id, ciphertext, a.Status, a.sentence(), err)
		case !b.mayHold(id, plaintext, least, most):
			b.breaks("row %d under %.9s has %q, and not write %d to %d", id, ciphertext, plaintext, least, most)
		default:
			b.reads.Add(1)
		}
		return nil
	})
}

// mayHold tells whether a row may have a plaintext that was read between two moments. Its first one has no number.
func (b *busy) mayHold(id int, plaintext string, least, most int64) bool {
	if plaintext == cardNumber(id) {
		return least == 0
	}
	for write := max(least, 1); write <= most; write++ {
		if plaintext == numbered(id, write) {
			return true
		}
	}
	return false
}

func (b *busy) breaks(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.broken = append(b.broken, time.Now().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
}

// within waits until a pass has begun, and for some moment of it.
func (b *busy) within() {
	b.t.Helper()
	moment := 1 + b.dice.IntN(busyRows/2)
	newest := fmt.Sprintf("vault:v%d", b.status(b.role).Current)
	await.Until(b.t, "the pass to be under way", func() (bool, any) {
		under := b.under()
		return under[newest] >= moment, under
	})
}

// allFollow lets time pass until nothing but the current version decrypts.
func (b *busy) allFollow(current int) {
	b.t.Helper()
	b.passUntil(3*time.Hour, fmt.Sprintf("the versions before %d to end", current), func() (bool, any) {
		s := b.status(b.role)
		older := slices.ContainsFunc(s.Versions, func(v versionAnswer) bool { return v.Version != current && v.State == "retiring" })
		return s.Current == current && !older, b.reencryption(b.role)
	})
}

// finally looks at every row, and at what became of the versions.
func (b *busy) finally(current int) {
	b.t.Helper()
	assert.Equal(b.t, map[string]int{fmt.Sprintf("vault:v%d", current): busyRows}, b.under())
	for id, ciphertext := range b.stored("number") {
		plaintext, refusal := b.decrypt(b.role, ciphertext)
		require.Empty(b.t, refusal)
		row := &b.rows[id]
		assert.True(b.t, b.mayHold(id, plaintext, row.stored.Load(), row.tried.Load()), "row %d has %q, and not write %d to %d", id, plaintext, row.stored.Load(), row.tried.Load())
	}
	for _, v := range b.status(b.role).Versions {
		if v.Version != current {
			assert.Equal(b.t, "disabled", v.State, "version %d", v.Version)
		}
	}
}

// A transaction that wrote under the old version, and ends only after the pass, keeps that version until its row has
// followed, whether it lives in a session or is prepared.
func TestATransactionKeepsItsVersion(t *testing.T) {
	t.Parallel()
	vault, clock := newClockedVault(t)
	for name, prepares := range map[string]bool{"session": false, "prepared": true} {
		t.Run(name, func(t *testing.T) {
			k := newKeeper(t, "slow"+name, vault, pgtest.Shared(t), clock)
			k.write("roles/"+k.role, keyRole(nil))
			k.store(k.role, 1, 5)
			k.write("reencrypt/"+k.role+"/targets/cards", cardsTarget(nil))
			session, says, commit := k.app(), `application_name "nightly report"`, "COMMIT"
			_, err := session.Exec(t.Context(), "SET application_name = 'nightly report'; BEGIN")
			require.NoError(t, err)
			_, err = session.Exec(t.Context(), "INSERT INTO billing.cards (id, number) VALUES (6, $1)", k.encrypt(k.role, cardNumber(6)))
			require.NoError(t, err)
			if prepares {
				_, err = session.Exec(t.Context(), "PREPARE TRANSACTION '"+k.role+"'")
				require.NoError(t, err)
				says, commit = `prepared transaction "`+k.role+`"`, "COMMIT PREPARED '"+k.role+"'"
			}
			k.rotation("rotate/"+k.role, nil)
			k.passUntil(10*time.Minute, "the job to wait for the transaction", func() (bool, any) {
				r := k.reencryption(k.role)
				return r.State == "draining" && strings.Contains(r.Reason, says), r
			})
			for range 3 { // however long it takes
				k.pass(24 * time.Hour)
				k.passUntil(time.Minute, "the job to have looked again", func() (bool, any) {
					r := k.reencryption(k.role)
					return r.Starts != nil && r.Starts.After(k.clock.now()), r
				})
				assert.Equal(t, "retiring", k.status(k.role).version(1).State)
				assert.Contains(t, k.reencryption(k.role).Reason, says)
			}
			k.denied(http.StatusConflict, "retire/"+k.role, map[string]any{"version": 1}, "is needed until no target holds")
			assert.Equal(t, map[string]int{"vault:v2": 5}, k.under())

			_, err = session.Exec(t.Context(), commit)
			require.NoError(t, err)
			assert.Equal(t, map[string]int{"vault:v1": 1, "vault:v2": 5}, k.under())
			k.readable(k.role)
			k.follows(k.role, 1, "disabled")
			assert.Equal(t, map[string]int{"vault:v2": 6}, k.under(), "it has followed")
			assert.Equal(t, 2, k.reencryption(k.role).Round)
			k.readable(k.role)
		})
	}
}
