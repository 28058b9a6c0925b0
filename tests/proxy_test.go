package tests

import (
	"io"
	"net"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// A proxy stands between the plugin and PostgreSQL, and can make it unreachable for one mount alone:
// what it has accepted then hangs, as behind a firewall that drops packets.
type proxy struct {
	listener net.Listener
	target   string
	all      sync.WaitGroup

	mu    sync.Mutex
	cut   bool
	conns []net.Conn
}

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &proxy{listener: listener, target: target}
	p.all.Go(p.accept)
	t.Cleanup(func() {
		_ = listener.Close()
		p.drop()
		p.all.Wait()
	})
	return p
}

func (p *proxy) port() string { return strconv.Itoa(p.listener.Addr().(*net.TCPAddr).Port) }

// block ends every connection and lets new ones hang; unblock ends those, and forwards new ones.
func (p *proxy) block()   { p.set(true) }
func (p *proxy) unblock() { p.set(false) }

func (p *proxy) set(cut bool) {
	p.mu.Lock()
	p.cut = cut
	p.mu.Unlock()
	p.drop()
}

func (p *proxy) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range p.conns {
		_ = conn.Close()
	}
	p.conns = nil
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		if p.keep(client) {
			continue // accepted, and never answered
		}
		server, err := net.Dial("tcp", p.target)
		if err != nil {
			_ = client.Close()
			continue
		}
		p.keep(server)
		p.all.Go(func() { forward(client, server) })
		p.all.Go(func() { forward(server, client) })
	}
}

// keep remembers a connection, and tells whether the way is blocked.
func (p *proxy) keep(conn net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns = append(p.conns, conn)
	return p.cut
}

func forward(from, to net.Conn) {
	_, _ = io.Copy(to, from) // ends with either side
	_ = to.Close()
	_ = from.Close()
}
