package e2e

import (
	"bytes"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// gate stands before a shard's Postgres and can lose the answers to commits: they are done and nobody knows.
type gate struct {
	listener net.Listener
	target   string
	deaf     atomic.Bool  // a connection on which a commit is answered hears no more from then on
	lost     atomic.Int64 // answers to commits
	running  sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]struct{} // to clients and to the server; nil when the gate is closed
}

// newGate opens a gate before a port of this machine.
func newGate(t *testing.T, port int) *gate {
	t.Helper()
	listener, err := net.Listen("tcp", freeAddress(t))
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{listener: listener, target: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), conns: make(map[net.Conn]struct{})}
	g.running.Go(g.accept)
	t.Cleanup(func() {
		listener.Close()
		g.cut(true)
		g.running.Wait()
	})
	return g
}

func (g *gate) port() int { return g.listener.Addr().(*net.TCPAddr).Port }

func (g *gate) accept() {
	for {
		client, err := g.listener.Accept()
		if err != nil {
			return
		}
		g.running.Go(func() { g.serve(client) })
	}
}

func (g *gate) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", g.target)
	if err != nil {
		return
	}
	defer server.Close()
	if !g.keep(client, server) {
		return
	}
	defer g.forget(client, server)
	var up sync.WaitGroup
	up.Go(func() {
		_, _ = io.Copy(server, client)
		server.Close()
	})
	defer up.Wait()
	defer client.Close()
	buffer, deaf := make([]byte, 32<<10), false
	for {
		n, err := server.Read(buffer)
		if !deaf && g.deaf.Load() && bytes.Contains(buffer[:n], []byte("COMMIT\x00")) {
			deaf = true
			g.lost.Add(1)
		}
		if !deaf {
			if _, err := client.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (g *gate) keep(conns ...net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.conns == nil {
		return false
	}
	for _, conn := range conns {
		g.conns[conn] = struct{}{}
	}
	return true
}

func (g *gate) forget(conns ...net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, conn := range conns {
		delete(g.conns, conn)
	}
}

// cut closes every connection.
func (g *gate) cut(forGood bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for conn := range g.conns {
		conn.Close()
	}
	if forGood {
		g.conns = nil
	}
}

// loseAnswers loses the answers to commits for a while, and then every connection.
func (g *gate) loseAnswers(for_ time.Duration) {
	g.deaf.Store(true)
	time.Sleep(for_)
	g.cut(false)
	g.deaf.Store(false)
}
