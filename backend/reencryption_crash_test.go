package backend_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/enginetest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/reencrypt"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/reencrypt/reencrypttest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// faultyRows makes each act of a database a point of a run.
type faultyRows struct {
	reencrypt.Database
	faults *enginetest.Faults
}

type faultyTable struct {
	reencrypt.Table
	faults *enginetest.Faults
}

// around turns an injected fault into what a database that went away looks like.
func around[T any](f *enginetest.Faults, name string, do func() (T, error)) (out T, err error) {
	err = f.Around(name, func() (err error) {
		out, err = do()
		return err
	})
	if err == enginetest.ErrInjected { //nolint:errorlint // only the bare one is ours
		var none T
		return none, fault.New(fault.Unreachable, "%s: %w", name, err)
	}
	return out, err
}

func (f faultyRows) Open(ctx context.Context, t *reencrypt.Target) (reencrypt.Table, error) {
	return around(f.faults, "open", func() (reencrypt.Table, error) {
		table, err := f.Database.Open(ctx, t)
		return faultyTable{table, f.faults}, err
	})
}

func (f faultyRows) Transactions(ctx context.Context) ([]reencrypt.Transaction, error) {
	return around(f.faults, "transactions", func() ([]reencrypt.Transaction, error) { return f.Database.Transactions(ctx) })
}

func (f faultyRows) Count(ctx context.Context, tables []reencrypt.Table) ([]reencrypt.Counts, error) {
	bare := make([]reencrypt.Table, 0, len(tables))
	for _, t := range tables {
		bare = append(bare, t.(faultyTable).Table)
	}
	return around(f.faults, "count", func() ([]reencrypt.Counts, error) { return f.Database.Count(ctx, bare) })
}

func (f faultyTable) Page(ctx context.Context, after reencrypt.Key, limit int, done string) ([]reencrypt.Row, error) {
	return around(f.faults, "page", func() ([]reencrypt.Row, error) { return f.Table.Page(ctx, after, limit, done) })
}

func (f faultyTable) Read(ctx context.Context, keys []reencrypt.Key, done string) ([]reencrypt.Row, error) {
	return around(f.faults, "read", func() ([]reencrypt.Row, error) { return f.Table.Read(ctx, keys, done) })
}

func (f faultyTable) Swap(ctx context.Context, changes []reencrypt.Change) ([]reencrypt.Result, error) {
	return around(f.faults, "swap", func() ([]reencrypt.Result, error) { return f.Table.Swap(ctx, changes) })
}

// faultyHolder is a type of connection in whose databases that is so.
type faultyHolder struct {
	rotator.ConnectionKind
	faults *enginetest.Faults
}

func (k faultyHolder) Database(conn rotator.Connection) (reencrypt.Database, error) {
	db, err := k.ConnectionKind.(rotator.DataHolder).Database(conn)
	return faultyRows{db, k.faults}, err
}

// rows are those of an application.
type rows interface {
	// get reads a row's value, "" where there is none.
	get(reencrypt.Key) string
	// begin opens a transaction that writes a row; nil where another one holds it.
	begin(k reencrypt.Key, text string) ending
}

// ending is an open transaction.
type ending interface{ commit() }

// memoryRows are rows in memory.
type memoryRows struct {
	db    *reencrypttest.Database
	cards *reencrypttest.Table
}

func newMemoryRows() *memoryRows {
	db := reencrypttest.New()
	return &memoryRows{db, db.Create("billing.cards", []string{"id"}, "number")}
}

func (m *memoryRows) get(k reencrypt.Key) string {
	if row := m.cards.Get(k); row != nil {
		return string(row[0])
	}
	return ""
}

func (m *memoryRows) begin(k reencrypt.Key, text string) ending {
	tx := m.db.Begin("the application")
	if tx.Put(m.cards, k, []byte(text)) != nil {
		tx.Rollback()
		return nil
	}
	return memoryTx{tx}
}

type memoryTx struct{ *reencrypttest.Tx }

func (tx memoryTx) commit() { tx.Commit() }

// application reads and writes rows all the time, by transactions that may take a while
// after what they store was encrypted, and knows what each row holds.
type application struct {
	rows     rows
	count    int
	play     *enginetest.Play
	written  map[string]string
	turn     int
	open     []pending
	problems []string
}

type pending struct {
	tx    ending
	key   reencrypt.Key
	plain string
	at    time.Time
}

// openFor is for how long a transaction may be open: less than settle_period.
const openFor = 30 * time.Second

// act is a turn of the application: it checks rows, writes another at once, and begins to
// write a third, which is committed later.
func (a *application) act() {
	e, now := a.play.Engine(), a.play.Clock.Now()
	for id := 1; len(a.written) < a.count && id <= a.count; id++ {
		a.write(e, key(id), now)
	}
	a.turn++
	for i := range a.count/20 + 1 {
		a.check(e, key((a.turn+i*20)%a.count+1))
	}
	a.commit(now)
	half := a.count / 2 // the others are written once
	a.write(e, key((a.turn*7)%half+1), now)
	if a.turn%3 == 0 {
		a.write(e, key((a.turn*5)%half+1), now.Add(openFor))
	}
}

// commit ends the transactions whose time has come.
func (a *application) commit(now time.Time) {
	kept := a.open[:0]
	for _, p := range a.open {
		if now.Before(p.at) {
			kept = append(kept, p)
			continue
		}
		p.tx.commit()
		a.written[p.key[0]] = p.plain
	}
	a.open = kept
}

func (a *application) check(e *backend.Engine, k reencrypt.Key) {
	text := a.rows.get(k)
	if text == "" {
		return
	}
	got, err := decrypt(e, text)
	if fault.Is(err, fault.Invalid) || err == nil && got != a.written[k[0]] {
		a.problems = append(a.problems, fmt.Sprintf("row %s of %.12s is %q (%v), and should be %q", k, text, got, err, a.written[k[0]]))
	}
}

func (a *application) write(e *backend.Engine, k reencrypt.Key, at time.Time) {
	plain := fmt.Sprintf("row %s, turn %d", k, a.turn)
	text, err := encrypt(e, plain)
	if err != nil {
		return // the process is down
	}
	tx := a.rows.begin(k, text)
	if tx == nil {
		return // one of its own writes it
	}
	a.open = append(a.open, pending{tx, k, plain, at})
	a.commit(a.play.Clock.Now())
}

// stage is one in which the application is at work all the time, over data that lies where
// the connection leads.
func (a *application) stage(t *testing.T, connection rotator.ConnectionKind) *enginetest.Stage {
	v := &vault{}
	a.written = map[string]string{}
	stage := encryptionStage(v)
	stage.Connection = func(f *enginetest.Faults) rotator.ConnectionKind { return faultyHolder{connection, f} }
	stage.Begin = func(p *enginetest.Play) { v.rig, a.play = &rig{Play: p, t: t}, p }
	login := stage.Login
	stage.Login = func(rendered map[string]any) error {
		a.act()
		if len(a.problems) > 0 {
			return fault.New(fault.AuthFailed, "%s", a.problems[0])
		}
		return login(rendered)
	}
	stage.Rests = func() bool {
		job := v.State().Reencryption
		return job == nil || job.Phase == rotation.Over
	}
	stage.Quiet = 20 * time.Minute
	return stage
}

// dataStage is one in memory.
func dataStage(count int) func(*testing.T) *enginetest.Stage {
	return func(t *testing.T) *enginetest.Stage {
		rows := newMemoryRows()
		return (&application{rows: rows, count: count}).stage(t, rowsKind{rows.db})
	}
}

// withTarget makes the role, and names the table.
func withTarget(p *enginetest.Play, values option.Values) {
	p.Create(values)
	for range 10 {
		err := p.Act(func(ctx context.Context, e *backend.Engine) error {
			return e.WriteTarget(ctx, app, "cards", &reencrypt.Target{
				Connection: enginetest.ConnectionName, Table: "billing.cards", KeyColumns: []string{"id"}, Columns: []string{"number"}, Content: reencrypt.Ciphertext,
			})
		})
		if err == nil {
			break
		}
		p.Wait(40 * time.Second)
	}
	p.Wait(20 * time.Second)
}

// dataScenarios are the life of an encryption key whose data is in use.
var dataScenarios = []enginetest.Scenario{
	{Name: "rotate, and the data follows", AtLeast: 40, Run: func(p *enginetest.Play) {
		withTarget(p, option.Values{"disable_automated_rotation": true})
		p.Rotate()
		p.Wait(8 * time.Minute)
	}},
	{Name: "rotate again meanwhile", AtLeast: 50, Run: func(p *enginetest.Play) {
		withTarget(p, option.Values{"disable_automated_rotation": true})
		p.Rotate()
		p.Wait(44 * time.Second)
		p.Rotate()
		p.Wait(8 * time.Minute)
	}},
	{Name: "emergency", AtLeast: 45, Run: func(p *enginetest.Play) {
		withTarget(p, option.Values{"disable_automated_rotation": true})
		p.Emergency(false)
		p.Wait(8 * time.Minute)
	}},
	{Name: "rollback", AtLeast: 50, Run: func(p *enginetest.Play) {
		withTarget(p, option.Values{"disable_automated_rotation": true})
		first := p.Current()
		p.Rotate()
		p.Wait(60 * time.Second)
		p.Rollback(first)
		p.Wait(8 * time.Minute)
	}},
}

func TestDataCrashAnywhere(t *testing.T) {
	t.Parallel()
	enumerate(t, dataStage(20), dataScenarios)
}

func TestDataCrashAnywhereInALargerTable(t *testing.T) {
	t.Parallel()
	enginetest.Enumerate(t, dataStage(2200), dataScenarios[0], enginetest.Crash)
}

func TestDataCrashAnywhereInAnImport(t *testing.T) {
	t.Parallel()
	enginetest.Enumerate(t, func(t *testing.T) *enginetest.Stage {
		stage := dataStage(6)(t)
		stage.RoleSecrets = secret.NewMap(map[string]string{"import_key": exported})
		login := stage.Login
		stage.Login = func(rendered map[string]any) error {
			if rendered["version"] == 3 && rendered["key"] != "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=" {
				return fault.New(fault.AuthFailed, "this is not the key that was taken over")
			}
			return login(rendered)
		}
		return stage
	}, enginetest.Scenario{Name: "import", AtLeast: 45, Run: func(p *enginetest.Play) {
		withTarget(p, option.Values{"disable_automated_rotation": true})
		p.Rotate()
		p.Wait(8 * time.Minute)
	}})
}

// A database that did not count would let a version end under the rows of a slow
// transaction: the application must notice.
func TestDataEnumerationFindsAMissingCount(t *testing.T) {
	t.Parallel()
	blind := func(t *testing.T) *enginetest.Stage {
		rows := newMemoryRows()
		return (&application{rows: rows, count: 20}).stage(t, blindKind{rowsKind{rows.db}})
	}
	require.NotEmpty(t, enginetest.FindsBug(t, blind, dataScenarios[0]), "a version ended under rows that it made")
}

// blindKind is a database that sees neither transactions nor rows.
type blindKind struct{ rowsKind }

func (k blindKind) Database(rotator.Connection) (reencrypt.Database, error) {
	return blindRows{k.db}, nil
}

type blindRows struct{ *reencrypttest.Database }

func (blindRows) Transactions(context.Context) ([]reencrypt.Transaction, error) { return nil, nil }

func (b blindRows) Count(_ context.Context, tables []reencrypt.Table) ([]reencrypt.Counts, error) {
	return make([]reencrypt.Counts, len(tables)), nil
}

func (b blindRows) Open(ctx context.Context, t *reencrypt.Target) (reencrypt.Table, error) {
	table, err := b.Database.Open(ctx, t)
	return blindTable{table}, err
}

type blindTable struct{ reencrypt.Table }

// Page implements reencrypt.Table: half of the rows.
func (b blindTable) Page(ctx context.Context, after reencrypt.Key, limit int, done string) ([]reencrypt.Row, error) {
	rows, err := b.Table.Page(ctx, after, limit, done)
	return rows[:len(rows)/2], err
}
