package reencrypt

import (
	"context"
	"errors"
	"strings"
	"time"
	"unicode/utf8"
)

// tally is what came of rows.
type tally struct {
	rows, changed, busy, unreadable int64
	reasons                         []Unreadable
	locked                          []Key
}

// item is a row that is to be written, and what of it cannot be.
type item struct {
	change  Change
	reasons []Unreadable
}

// errSwap tells of a Table that does not keep its word.
var errSwap = errors.New("a swap did not tell of each change what came of it")

// errBatch tells of a BatchRewriter that does not.
var errBatch = errors.New("a batch was not rewritten value by value")

// move rewrites rows that were read at a time. One that somebody else wrote in between is
// read again, a few times.
func (r *run) move(ctx context.Context, rows []Row, read time.Time) (tally, error) {
	t := tally{rows: int64(len(rows))}
	for try := 1; ; try++ {
		items, err := r.rewrite(ctx, rows, &t)
		if err != nil {
			return t, err
		}
		moved, err := r.swap(ctx, items, read, &t)
		if err != nil || len(moved) == 0 {
			return t, err
		}
		if try == tries {
			t.busy += int64(len(moved))
			return t, nil
		}
		// One that is not there any more needs nothing.
		read = r.Now()
		if rows, err = r.Table.Read(ctx, moved, r.done); err != nil {
			return t, err
		}
	}
}

// rewrite makes the changes of rows, and tells at once of those that have none.
func (r *run) rewrite(ctx context.Context, rows []Row, t *tally) (items []item, err error) {
	made, err := r.rewriteAll(ctx, rows)
	if err != nil {
		return nil, err
	}
	for i := range rows {
		row := &rows[i]
		it := item{}
		for n, value := range row.Values {
			if value == nil {
				continue
			}
			rewritten := made[0]
			made = made[1:]
			if rewritten.Err != nil {
				it.reasons = append(it.reasons, Unreadable{Key: cut(row.Key), Column: r.Target.Columns[n], Reason: short(rewritten.Err.Error(), maxReason)})
				continue
			}
			if it.change.New == nil {
				it.change = Change{Row: *row, New: make([][]byte, len(row.Values))}
			}
			it.change.New[n] = rewritten.Value
		}
		switch {
		case it.change.New != nil:
			items = append(items, it)
		case it.reasons != nil:
			t.unreadableRow(it.reasons)
		}
	}
	return items, nil
}

// rewriteAll rewrites the values of rows, one after another.
func (r *run) rewriteAll(ctx context.Context, rows []Row) (made []Rewritten, err error) {
	var values []Value
	for i := range rows {
		for _, value := range rows[i].Values {
			if value != nil {
				values = append(values, Value{Value: value, Context: rows[i].Context, AssociatedData: rows[i].AssociatedData})
			}
		}
	}
	batch, ok := r.Rewriter.(BatchRewriter)
	if !ok {
		for _, v := range values {
			value, err := r.Rewriter.Rewrite(v.Value, v.Context, v.AssociatedData)
			made = append(made, Rewritten{Value: value, Err: err})
		}
		return made, nil
	}
	if len(values) == 0 {
		return nil, nil
	}
	if made, err = batch.RewriteAll(ctx, values); err != nil {
		return nil, err
	}
	if len(made) != len(values) {
		return nil, errBatch
	}
	return made, nil
}

// swap writes rows, as many at a time as RowsPerSecond lets through together, and returns
// the keys of those that have to be read again.
func (r *run) swap(ctx context.Context, items []item, read time.Time, t *tally) (moved []Key, err error) {
	for len(items) > 0 {
		part := items[:min(len(items), r.burst)]
		items = items[len(part):]
		if err := r.wait(ctx, len(part)); err != nil {
			return nil, err
		}
		if err := r.wanted(ctx, read); err != nil {
			return nil, err
		}
		changes := make([]Change, len(part))
		for i := range part {
			changes[i] = part[i].change
		}
		results, err := r.Table.Swap(ctx, changes)
		if err != nil {
			return nil, err
		}
		if len(results) != len(part) {
			return nil, errSwap
		}
		for i, result := range results {
			if r.came(&part[i], result, t) {
				moved = append(moved, part[i].change.Row.Key)
			}
		}
	}
	return moved, nil
}

// wanted looks whether rows that were read a while ago are to be written. The clock of the
// wall counts too: the other one stands still while a machine is suspended.
func (r *run) wanted(ctx context.Context, read time.Time) error {
	now := r.Now()
	if r.Wanted == nil || max(now.Sub(read), now.Round(0).Sub(read.Round(0))) < fresh {
		return nil
	}
	return r.Wanted(ctx)
}

// came takes note of what came of a row, and tells whether it has to be read again.
func (r *run) came(it *item, result Result, t *tally) (again bool) {
	key := it.change.Row.Key
	switch result.Outcome {
	case Moved:
		return true
	case Locked:
		t.locked = append(t.locked, key)
		return false
	case Changed:
		t.changed++
	case Refused:
		it.reasons = append(it.reasons, Unreadable{Key: cut(key), Column: r.changed(it.change), Reason: short(result.Reason, maxReason)})
	}
	if it.reasons != nil {
		t.unreadableRow(it.reasons)
	}
	return false
}

// changed names the columns of a change.
func (r *run) changed(c Change) string {
	var names []string
	for n, value := range c.New {
		if value != nil {
			names = append(names, r.Target.Columns[n])
		}
	}
	return strings.Join(names, ", ")
}

func (t *tally) unreadableRow(reasons []Unreadable) {
	t.unreadable++
	t.reasons = append(t.reasons, reasons...)
}

// cut bounds what is kept of a key.
func cut(key Key) Key {
	out := make(Key, len(key))
	for i, text := range key {
		out[i] = short(text, maxKeyText)
	}
	return out
}

func short(text string, most int) string {
	if len(text) <= most {
		return text
	}
	for most > 0 && !utf8.RuneStart(text[most]) {
		most--
	}
	return text[:most] + "..."
}
