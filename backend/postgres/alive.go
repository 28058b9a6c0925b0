package postgres

import (
	"context"
	"time"
)

// stillAlive is for how long a login says that the next one would succeed too. A
// login is the dearest of all that is asked of a server: it forks a process.
const stillAlive = 2 * time.Second

// look is what a login of the administrator found out.
type look struct {
	begun, ended time.Time
	err          error
}

// Alive is Ping for those who look before they begin: of many who ask together one
// logs in, and a login of a moment ago is as good as one of now. It is no witness in
// a proof.
func (db *DB) Alive(ctx context.Context) error {
	asked := time.Now()
	var last look
	select {
	case last = <-db.looked:
	case <-ctx.Done():
		return classify(ctx.Err())
	}
	defer func() { db.looked <- last }()
	if last.err == nil && time.Since(last.begun) < stillAlive || last.err != nil && last.ended.After(asked) {
		return last.err
	}
	begun := time.Now()
	err := db.Ping(ctx)
	if ctx.Err() == nil { // else it says nothing to others
		last = look{begun: begun, ended: time.Now(), err: err}
	}
	return err
}
