package postgres

import (
	"context"
	"net"
	"sync"
	"time"
)

// tracker dials, and knows every network connection that is open, so that Close
// can end those whose other end does not answer.
type tracker struct {
	dialer DialFunc

	mu   sync.Mutex
	open map[*trackedConn]struct{}
}

func newTracker(dialer DialFunc) *tracker {
	if dialer == nil {
		dialer = (&net.Dialer{KeepAlive: time.Minute}).DialContext
	}
	return &tracker{dialer: dialer, open: map[*trackedConn]struct{}{}}
}

func (t *tracker) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := t.dialer(ctx, network, address)
	if err != nil {
		return nil, err
	}
	tracked := &trackedConn{Conn: conn, tracker: t}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open[tracked] = struct{}{}
	return tracked, nil
}

func (t *tracker) closeAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for conn := range t.open {
		_ = conn.Conn.Close()
	}
}

type trackedConn struct {
	net.Conn
	tracker *tracker
}

// Close implements net.Conn.
func (c *trackedConn) Close() error {
	c.tracker.mu.Lock()
	delete(c.tracker.open, c)
	c.tracker.mu.Unlock()
	return c.Conn.Close()
}
