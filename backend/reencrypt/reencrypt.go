// Package reencrypt moves stored data from the version of a key that made it to the
// current one: row by row, while applications read and write the same rows, and so that
// an end at any moment costs nothing but time.
//
// What it moves is behind Database and Table, which a type of connection gives; how a
// value is rewritten is behind Rewriter, which a kind of secret gives. What is to happen
// when, and when a version may end, is the engine's business.
package reencrypt

import (
	"context"
	"errors"
	"time"
)

// Content says what the columns of a target hold.
type Content string

// The contents.
const (
	Ciphertext Content = "ciphertext" // what encrypt made
	DataKey    Content = "datakey"    // wrapped data keys, as datakey made them
)

// Target is a table whose columns hold what versions of one role made.
type Target struct {
	Connection string   `json:"connection"`
	Table      string   `json:"table"` // as SQL writes it: schema.table, odd names in double quotes
	KeyColumns []string `json:"key_columns"`
	Columns    []string `json:"columns"`
	// ContextColumn and AssociatedDataColumn hold what the values of a row were encrypted
	// with beside the key: the bytes of a text or bytea, the text form of anything else.
	ContextColumn        string  `json:"context_column,omitempty"`
	AssociatedDataColumn string  `json:"associated_data_column,omitempty"`
	Content              Content `json:"content"`
}

// Database is where the tables of targets lie. Every context has a deadline.
type Database interface {
	// Open looks at a target's table and refuses, with the field of the Target that is at
	// fault, what is not there, not unique, of a type that is not supported, or not allowed
	// to this connection.
	Open(ctx context.Context, t *Target) (Table, error)
	// Transactions lists every transaction, prepared ones too, that could still commit
	// rows in this database. It fails rather than ask a standby, which knows of none.
	Transactions(ctx context.Context) ([]Transaction, error)
	// Count counts the values of all tables by what they begin with, in one snapshot. It
	// fails rather than overlook rows that row security hides, or that a standby has not yet.
	Count(ctx context.Context, tables []Table) ([]Counts, error)
}

// Transaction is one that lives. That of a session may go on as a prepared one, under
// another ID: whoever waits for a session's transaction that is gone must look at the
// prepared ones too. One that is being prepared meanwhile is listed as one or the other, or
// as both.
type Transaction struct {
	// ID is never that of another one, whatever ends and begins meanwhile.
	ID string `json:"id"`
	// What describes it for a person.
	What string `json:"what"`
	// Prepared ones belong to no session, and outlive the server.
	Prepared bool `json:"prepared,omitempty"`
}

// Table is a target's table.
type Table interface {
	// Page reads at most limit rows, in the order of their keys, those after a key, or, where
	// after is nil, from the first one on. Values that begin with done are not read: nil. It
	// stops early rather than read much more than PageBytes: no row at all is the end, and
	// fewer than limit are not. An after that is no key of the table, since its columns have
	// other types or values by now, is ErrCursor.
	Page(ctx context.Context, after Key, limit int, done string) ([]Row, error)
	// Read reads those of the rows of these keys that are there, in any order.
	Read(ctx context.Context, keys []Key, done string) ([]Row, error)
	// Swap writes the new values of rows that still hold what was read of the columns that
	// change, of the context and of the associated data, and tells of each change, in their
	// order, what came of it. A row that is locked for longer than a moment is not waited for.
	// No two changes are of one row. After an error any of them may have been made.
	Swap(ctx context.Context, changes []Change) ([]Result, error)
	// Facts is what a person should know before rows are rewritten, for the dry run: triggers
	// that an update fires, partitions, how large the table is.
	Facts(ctx context.Context) (Facts, error)
}

// ErrCursor tells that a key after which to read is none of the table any more.
var ErrCursor = errors.New("the key after which to read is none of the table any more")

// Key identifies a row: the key columns' values as text.
type Key []string

// Row is a row as it was read. Nil is NULL, or what was not asked for.
type Row struct {
	Key                     Key
	Values                  [][]byte // of the target's columns, in their order
	Context, AssociatedData []byte
}

// Change is what a row is to hold.
type Change struct {
	Row Row
	// New has nil where the column stays as it is.
	New [][]byte
}

// PageBytes bounds what a page holds, where not a single row is larger.
const PageBytes = 2 << 20

// Result is what came of a change, and, of one that was refused, why: a sentence that
// holds nothing of the row.
type Result struct {
	Outcome Outcome
	Reason  string
}

// Outcome is what came of a change.
type Outcome int

// The outcomes.
const (
	Changed Outcome = iota
	// Moved: somebody else wrote the row since, or removed it.
	Moved
	// Locked: somebody holds the row.
	Locked
	// Refused: a type, constraint or trigger does not take the new value.
	Refused
)

// Facts about a table.
type Facts struct {
	Triggers   []string `json:"triggers,omitempty"`
	Partitions int      `json:"partitions,omitempty"`
	Bytes      int64    `json:"bytes"`
}

// Counts are the values of a target by the version that made them.
type Counts struct {
	// Rows are all rows of the table.
	Rows int64 `json:"rows"`
	// Versions are the values under each version. A row with two columns has two values.
	Versions map[int]int64 `json:"versions,omitempty"`
	// Foreign are values, NULL apart, that are no ciphertext at all.
	Foreign int64 `json:"foreign,omitempty"`
}

// Rewriter rewrites values.
type Rewriter interface {
	// Version is the version to which values are moved.
	Version() int
	// Done is how everything that this version made begins: "vault:v7:".
	Done() string
	// Rewrite gives a value as this version makes it. The error says why it cannot be
	// decrypted, without saying what it holds. It is called by several goroutines at a time.
	Rewrite(value, context, associatedData []byte) ([]byte, error)
}

// BatchRewriter is a Rewriter that asks somebody outside, and so rewrites many values at a
// time: Rewrite is not called.
type BatchRewriter interface {
	Rewriter
	// RewriteAll gives, for each of the values and in their order, what Rewrite would. An error
	// of its own says that nothing is known of any of them, and ends the pass for now.
	RewriteAll(ctx context.Context, values []Value) ([]Rewritten, error)
}

// Value is one to be rewritten.
type Value struct{ Value, Context, AssociatedData []byte }

// Rewritten is what a value is to be, or why it cannot be decrypted.
type Rewritten struct {
	Value []byte
	Err   error
}

// Progress is how far one target is. It is stored, and read again after a restart.
type Progress struct {
	// Version is the one to which values are moved; another one begins anew.
	Version int `json:"version"`
	// After is the last key that was passed, Ended that the last one was.
	After Key  `json:"after,omitempty"`
	Ended bool `json:"ended,omitempty"`

	Total   int64 `json:"total"`   // rows when the pass began
	Passed  int64 `json:"passed"`  // rows that were looked at
	Changed int64 `json:"changed"` // rows that were rewritten
	// Busy rows were locked, or changed again and again: the next pass has them.
	Busy int64 `json:"busy,omitempty"`
	// Unreadable rows hold something that does not decrypt; the first of them by key.
	Unreadable     int64        `json:"unreadable,omitempty"`
	UnreadableKeys []Unreadable `json:"unreadable_keys,omitempty"`

	StartedTime time.Time `json:"started_time,omitzero"`
	// Spent is for how long the pass has run, without pauses.
	Spent time.Duration `json:"spent,omitempty"`
}

// Unreadable is a row that cannot be re-encrypted.
type Unreadable struct {
	Key    Key    `json:"key"`
	Column string `json:"column"`
	Reason string `json:"reason"`
}
