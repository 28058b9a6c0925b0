package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Pipelined runs do with a session whose Exec only notes a statement; when do has
// returned without an error, all of them are sent together and run one after another,
// until one fails. That is one trip to the server in place of one each, while locks
// are held that others wait for. Queries are asked at once, so none may depend on a
// noted statement. Errors name the step that Step told of.
func (s *Session) Pipelined(ctx context.Context, do func(*Session) error) error {
	p := &pipeline{querier: s.q}
	inner := &Session{q: p, conn: s.conn, secrets: s.secrets}
	err := do(inner)
	s.secrets = inner.secrets
	if err != nil || p.batch.Len() == 0 {
		return err
	}
	results := s.conn.SendBatch(ctx, &p.batch)
	for _, step := range p.steps {
		if _, err := results.Exec(); err != nil {
			_ = results.Close() // it repeats the error
			return in(step, classify(err, s.secrets...))
		}
	}
	return classify(results.Close(), s.secrets...)
}

// Step says, inside Pipelined, what the next statements are for.
func (s *Session) Step(what string) {
	if p, ok := s.q.(*pipeline); ok {
		p.step = what
	}
}

// pipeline notes statements.
type pipeline struct {
	querier
	batch pgx.Batch
	step  string
	steps []string // of each statement
}

// Exec implements querier.
func (p *pipeline) Exec(_ context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	p.batch.Queue(sql, args...)
	p.steps = append(p.steps, p.step)
	return pgconn.CommandTag{}, nil
}
