package postgres_test

import (
	"context"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/postgres"
)

// faulty is a network whose answers can be lost: what is sent arrives.
type faulty struct{ lost atomic.Bool }

func (f *faulty) loseAnswers() { f.lost.Store(true) }

func (f *faulty) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	return &faultyConn{Conn: conn, f: f}, err
}

type faultyConn struct {
	net.Conn
	f *faulty
}

func (c *faultyConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.f.lost.Load() {
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}

// openConns is a network that counts its open connections.
type openConns struct {
	mu        sync.Mutex
	now, peak int
}

func (o *openConns) dial(ctx context.Context, network, address string) (net.Conn, error) {
	o.add(1)
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		o.add(-1)
		return nil, err
	}
	return &countedConn{Conn: conn, closed: sync.OnceFunc(func() { o.add(-1) })}, nil
}

func (o *openConns) add(n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.now += n
	o.peak = max(o.peak, o.now)
}

func (o *openConns) most() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.peak
}

type countedConn struct {
	net.Conn
	closed func()
}

func (c *countedConn) Close() error {
	defer c.closed()
	return c.Conn.Close()
}

// forward makes the server reachable at another loopback address.
func forward(t testing.TB, host string, port int) {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	require.NoError(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
			if err != nil {
				_ = client.Close()
				continue
			}
			for _, pair := range [][2]net.Conn{{client, server}, {server, client}} {
				wg.Go(func() {
					_, _ = io.Copy(pair[0], pair[1])
					_, _ = pair[0].Close(), pair[1].Close()
				})
			}
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
}

// fakeServer answers every login with one error.
type fakeServer struct {
	listener net.Listener
	mu       sync.Mutex
	response pgproto3.ErrorResponse
}

func newFakeServer(t testing.TB) *fakeServer {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &fakeServer{listener: l}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.serve(conn)
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return s
}

func (s *fakeServer) serve(conn net.Conn) {
	defer conn.Close()
	backend := pgproto3.NewBackend(conn, conn)
	if _, err := backend.ReceiveStartupMessage(); err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	backend.Send(&s.response)
	_ = backend.Flush()
}

func (s *fakeServer) answer(severity, code, message, routine string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.response = pgproto3.ErrorResponse{Severity: severity, Code: code, Message: message, Routine: routine}
}

func (s *fakeServer) address(t testing.TB) *postgres.Address {
	a, err := postgres.ParseAddress("postgres://" + s.listener.Addr().String() + "/x?sslmode=disable")
	require.NoError(t, err)
	return a
}
