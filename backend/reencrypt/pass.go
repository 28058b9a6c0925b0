package reencrypt

import (
	"context"
	"errors"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
)

// Pass goes once through a table, and rewrites what other versions made.
type Pass struct {
	Table  Table
	Target *Target // for the columns' names
	// Rewriter is the same throughout; another version is another pass.
	Rewriter Rewriter
	// Total are the rows of the table, 0 unknown: for whoever asks how long it takes.
	Total int64
	// Save stores how far the pass is; an error ends it. It is called by one at a time, and
	// once more at the end, whatever the context.
	Save func(context.Context, Progress) error
	// Wanted asks storage whether the pass is, before rows are written that were read a while
	// ago; nil: always. A process that was frozen may have been deposed meanwhile, and what it
	// holds would be written for a version that has ended since.
	Wanted func(context.Context) error
	Now    func() time.Time

	Workers int           // pages that are worked on at a time; default DefaultWorkers
	Batch   int           // rows of a page, at most; default DefaultBatch
	Every   time.Duration // between two calls of Save, at least; default DefaultEvery
	// RowsPerSecond bounds the rows that are rewritten; 0: no bound.
	RowsPerSecond int
}

// The defaults. Two pages at a time keep the server busy while we decrypt and encrypt: what
// more would gain is taken from the applications.
const (
	DefaultWorkers = 2
	DefaultBatch   = 1000
	DefaultEvery   = time.Second
)

const (
	// pagesAhead, for each worker, is how many pages may be in memory, the ones that wait
	// for an earlier one to end among them.
	pagesAhead = 3
	// tries is how often a row that somebody else wrote in between is begun.
	tries = 3
	// maxUnreadable bounds the keys that are kept, maxKeyText and maxReason their length.
	maxUnreadable = 100
	maxKeyText    = 128
	maxReason     = 300
	// maxLocked bounds the rows that are tried once more at the end.
	maxLocked = 10_000
	// saveTimeout bounds the last Save of a pass that was ended.
	saveTimeout = 5 * time.Second
	// fresh is for how long rows that were read are written without a further look.
	fresh = 15 * time.Second
)

// Run goes on from where an earlier run was, with the version that was current then, or
// begins anew. It returns how far it got, also with an error. Whatever ends it, at any
// moment, a run from what was saved last overlooks nothing: what is rewritten twice begins
// with Done the second time. Where the key that was saved is none of the table any more,
// the run begins anew from the first row.
func (p *Pass) Run(ctx context.Context, from Progress) (Progress, error) {
	r := &run{Pass: p, done: p.Rewriter.Done(), begun: p.Now(), at: from}
	r.workers, r.batch, r.every = orDefault(p.Workers, DefaultWorkers), orDefault(p.Batch, DefaultBatch), orDefault(p.Every, DefaultEvery)
	r.limit, r.burst = rate.NewLimiter(rate.Inf, 0), r.batch
	if p.RowsPerSecond > 0 { // no page is worked on for long
		r.batch = min(r.batch, 5*p.RowsPerSecond)
		r.burst = min(r.batch, p.RowsPerSecond)
		r.limit = rate.NewLimiter(rate.Limit(p.RowsPerSecond), r.burst)
	}
	if version := p.Rewriter.Version(); from.Version != version {
		r.anew()
	}
	if p.Total > 0 {
		r.at.Total = p.Total
	}
	r.spent, r.saved = r.at.Spent, r.begun
	if r.at.Ended {
		return r.at, nil
	}
	after := r.at.After
	err := r.pages(ctx)
	if after != nil && errors.Is(err, ErrCursor) && slices.Equal(r.at.After, after) {
		r.anew()
		err = r.pages(ctx)
	}
	if err == nil {
		err = r.lockedRows(ctx)
	}
	if ctx.Err() != nil { // whatever failed then, that is why
		err = ctx.Err()
	}
	r.at.Ended = err == nil
	return r.end(ctx, err)
}

// anew begins with the first row.
func (r *run) anew() {
	r.at = Progress{Version: r.Rewriter.Version(), StartedTime: r.begun, Total: r.Total}
	r.spent, r.locked = 0, nil
}

func orDefault[T int | time.Duration](value, usual T) T {
	if value <= 0 {
		return usual
	}
	return value
}

// run is one Run of a pass.
type run struct {
	*Pass
	done           string
	workers, batch int
	every          time.Duration
	limit          *rate.Limiter
	burst          int

	// What follows belongs to whoever takes the pages' results, one goroutine.
	at           Progress
	begun, saved time.Time
	spent        time.Duration // before this run
	locked       []Key
}

// page is a page on its way: read, worked on, and taken note of in the order of keys.
type page struct {
	number int
	rows   []Row
	read   time.Time
	last   Key
	result tally
}

// pages reads all pages, works on several at a time, and takes note of them in order.
func (r *run) pages(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	read, worked := make(chan *page), make(chan *page)
	room := make(chan struct{}, pagesAhead*r.workers)
	after := r.at.After
	group.Go(func() error {
		defer close(read)
		return r.readAll(ctx, after, room, read)
	})
	workers, workCtx := errgroup.WithContext(ctx)
	for range r.workers {
		workers.Go(func() error { return r.work(workCtx, read, worked) })
	}
	group.Go(func() error {
		defer close(worked)
		return workers.Wait()
	})
	group.Go(func() error { return r.note(ctx, room, worked) })
	return group.Wait()
}

// readAll reads pages as long as there is room for them.
func (r *run) readAll(ctx context.Context, after Key, room chan<- struct{}, read chan<- *page) error {
	limit := r.batch
	for number := 0; ; number++ {
		select {
		case room <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		asked := r.Now()
		rows, err := r.Table.Page(ctx, after, limit, r.done)
		if err != nil || len(rows) == 0 {
			return err
		}
		// Where values are large, a page ends early: no more rows are looked for than are
		// likely to come.
		limit = min(r.batch, 2*len(rows)+1)
		after = rows[len(rows)-1].Key
		select {
		case read <- &page{number: number, rows: rows, read: asked, last: after}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (r *run) work(ctx context.Context, read <-chan *page, worked chan<- *page) error {
	for p := range read {
		var err error
		if p.result, err = r.move(ctx, p.rows, p.read); err != nil {
			return err
		}
		p.rows = nil
		select {
		case worked <- p:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return ctx.Err()
}

// note passes over the pages that are done, and over none before those in front of it.
func (r *run) note(ctx context.Context, room <-chan struct{}, worked <-chan *page) error {
	waiting := map[int]*page{}
	next := 0
	for p := range worked {
		waiting[p.number] = p
		if waiting[next] == nil {
			continue // there is nothing new to save
		}
		for ; waiting[next] != nil; next++ {
			r.pass(waiting[next])
			delete(waiting, next)
			<-room
		}
		if err := r.saveNowAndThen(ctx); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// pass moves the cursor over a page.
func (r *run) pass(p *page) {
	r.at.After = p.last
	r.at.Passed += p.result.rows
	r.add(&p.result)
	// Rows that are tried once more count as busy until then: nobody would know of them
	// should this run end before.
	r.at.Busy += int64(len(p.result.locked))
	if free := maxLocked - len(r.locked); free > 0 {
		r.locked = append(r.locked, p.result.locked[:min(free, len(p.result.locked))]...)
	}
}

func (r *run) add(t *tally) {
	r.at.Changed += t.changed
	r.at.Busy += t.busy
	r.at.Unreadable += t.unreadable
	free := max(0, maxUnreadable-len(r.at.UnreadableKeys))
	r.at.UnreadableKeys = append(r.at.UnreadableKeys, t.reasons[:min(free, len(t.reasons))]...)
}

// lockedRows tries once more those rows that were locked.
func (r *run) lockedRows(ctx context.Context) error {
	for len(r.locked) > 0 {
		keys := r.locked[:min(len(r.locked), r.batch)]
		asked := r.Now()
		rows, err := r.Table.Read(ctx, keys, r.done)
		if err != nil {
			return err
		}
		for len(rows) > 0 { // they may have grown since
			n := fitting(rows)
			result, err := r.move(ctx, rows[:n], asked)
			if err != nil {
				return err
			}
			result.busy += int64(len(result.locked))
			r.add(&result)
			rows = rows[n:]
		}
		r.at.Busy -= int64(len(keys))
		r.locked = r.locked[len(keys):]
		if err := r.saveNowAndThen(ctx); err != nil {
			return err
		}
	}
	return nil
}

// fitting is how many of rows are a page by their size.
func fitting(rows []Row) int {
	size := 0
	for i, row := range rows {
		for _, v := range row.Values {
			size += len(v)
		}
		if size > PageBytes {
			return max(1, i)
		}
	}
	return len(rows)
}

func (r *run) saveNowAndThen(ctx context.Context) error {
	if r.Now().Sub(r.saved) < r.every {
		return nil
	}
	return r.save(ctx)
}

// save stores how far the run is.
func (r *run) save(ctx context.Context) error {
	r.saved = r.Now()
	r.at.Spent = r.spent + r.saved.Sub(r.begun)
	// Those who store it may keep it.
	kept := r.at
	kept.UnreadableKeys = append([]Unreadable(nil), kept.UnreadableKeys...)
	return r.Save(ctx, kept)
}

// end stores how far the run got, whatever ended it.
func (r *run) end(ctx context.Context, err error) (Progress, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTimeout)
	defer cancel()
	if saveErr := r.save(ctx); err == nil {
		err = saveErr
	}
	return r.at, err
}

// wait lets no more rows through than RowsPerSecond.
func (r *run) wait(ctx context.Context, rows int) error {
	err := r.limit.WaitN(ctx, rows)
	if err != nil && ctx.Err() == nil {
		// It looks ahead, and does not wait for what would be too late.
		return errors.Join(context.DeadlineExceeded, err)
	}
	return err
}
