package pgtest

import (
	"context"
	"sync"
)

// TB is the part of testing.TB that is needed, so that programs may use this
// package without the testing one.
type TB interface {
	Helper()
	Cleanup(func())
	Fatalf(format string, args ...any)
	Logf(format string, args ...any)
}

// New starts a cluster that ends with the test.
func New(t TB, o ...Options) *Server {
	t.Helper()
	var options Options
	if len(o) > 0 {
		options = o[0]
	}
	s, err := Start(context.Background(), options)
	if err != nil {
		t.Fatalf("start PostgreSQL: %v", err)
	}
	s.stopAfter(t)
	return s
}

// NewPair starts a cluster and a hot standby of it that end with the test.
func NewPair(t TB) (primary, standby *Server) {
	t.Helper()
	primary = New(t, Options{Replication: true})
	standby, err := primary.StartStandby(context.Background())
	if err != nil {
		t.Fatalf("start a standby: %v", err)
	}
	standby.stopAfter(t)
	return primary, standby
}

func (s *Server) stopAfter(t TB) {
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Logf("stop PostgreSQL: %v", err)
		}
	})
}

var shared struct {
	sync.Mutex
	server *Server
	err    error
}

// Shared returns the one cluster of a test binary, started by the first call.
// The package's TestMain ends it:
//
//	func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }
func Shared(t TB) *Server {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.server == nil && shared.err == nil {
		shared.server, shared.err = Start(context.Background(), Options{})
	}
	if shared.err != nil {
		t.Fatalf("start PostgreSQL: %v", shared.err)
	}
	return shared.server
}

// Main runs the tests of a package and ends its shared cluster.
func Main(m interface{ Run() int }) (code int) {
	defer func() {
		shared.Lock()
		defer shared.Unlock()
		if shared.server != nil && shared.server.Stop() != nil && code == 0 {
			code = 1
		}
	}()
	return m.Run()
}

// MustExec runs statements as the superuser and ends the test when one fails.
func (s *Server) MustExec(t TB, database string, statements ...string) {
	t.Helper()
	if err := s.Exec(context.Background(), database, statements...); err != nil {
		t.Fatalf("%v", err)
	}
}

// MustQuery runs a query as the superuser and returns its one text value.
func (s *Server) MustQuery(t TB, database, query string, args ...any) string {
	t.Helper()
	value, err := s.QueryString(context.Background(), database, query, args...)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return value
}
