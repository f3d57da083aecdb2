package shard_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
)

// proxy stands between a lane and Postgres. It reads along, so that it can break a connection at a named moment of a batch.
type proxy struct {
	listener net.Listener
	target   string
	running  sync.WaitGroup

	mu sync.Mutex
	// Guarded by mu:
	plan   func(request) fault // nil: pass
	conns  map[net.Conn]struct{}
	refuse bool // new connections
	closed bool
	trips  []request // all that were seen, in order

	cancels int // cancel requests, which come on connections of their own

	release chan struct{} // closed by a test to let the requests go that are held
}

const cancelCode = 80877102 // where other first messages have the protocol's version

// request is what a client sends at once: it ends with a Sync, after which the client waits for the answer.
type request struct {
	begin, commit, prepares bool
}

// fault is what becomes of a request. The zero fault passes it on.
type fault int

const (
	pass           fault = iota
	cutRequest           // it is not passed on, and the connection breaks
	cutAtOnce            // it is passed on, and the connection breaks before anything is heard
	cutAnswer            // it is passed on and answered, and the connection breaks instead of passing the answer on
	swallowRequest       // it is not passed on, nor is anything after it; the connection stays open
	swallowAnswer        // it is passed on; nothing that the server says is; the connection stays open
	holdRequest          // it is passed on much later
)

func (f fault) String() string {
	return [...]string{"pass", "cut request", "cut at once", "cut answer", "swallow request", "swallow answer", "hold request"}[f]
}

// via starts a proxy to the server of dsn and returns the DSN that goes through it.
func via(t testing.TB, dsn string) (*proxy, string) {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: listener, target: u.Host, conns: make(map[net.Conn]struct{}), release: make(chan struct{})}
	p.running.Go(p.accept)
	t.Cleanup(p.close)
	u.Host = listener.Addr().String()
	return p, u.String()
}

func (p *proxy) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	_ = p.listener.Close()
	p.cut()
	p.running.Wait()
}

// cut breaks all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.conns {
		_ = conn.Close()
	}
}

func (p *proxy) onRequest(plan func(request) fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.plan = plan
}

// once makes a fault happen to the first request that is one of those meant, and returns a channel that is closed then.
func (p *proxy) once(meant func(request) bool, f fault) <-chan struct{} {
	happened := make(chan struct{})
	done := false
	p.onRequest(func(r request) fault {
		if done || !meant(r) {
			return pass
		}
		done = true
		close(happened)
		return f
	})
	return happened
}

func (p *proxy) seen() []request {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]request(nil), p.trips...)
}

func (p *proxy) cancelled() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cancels
}

func (p *proxy) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trips = nil
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.target)
		p.mu.Lock()
		if p.refuse || p.closed || err != nil {
			p.mu.Unlock()
			_ = client.Close()
			if err == nil {
				_ = server.Close()
			}
			continue
		}
		p.conns[client], p.conns[server] = struct{}{}, struct{}{}
		p.mu.Unlock()
		p.running.Go(func() { p.serve(client, server) })
	}
}

func (p *proxy) serve(client, server net.Conn) {
	s := &stream{proxy: p, client: client, server: server, names: make(map[string]string)}
	var answers sync.WaitGroup
	answers.Go(s.answers)
	if !s.requests() { // the client has gone, or is cut off
		_ = client.Close()
		_ = server.Close()
	} else { // it is kept in silence until it goes
		_, _ = io.Copy(io.Discard, client)
		_ = client.Close()
		_ = server.Close()
	}
	answers.Wait()
	p.mu.Lock()
	delete(p.conns, client)
	delete(p.conns, server)
	p.mu.Unlock()
}

type stream struct {
	proxy          *proxy
	client, server net.Conn
	names          map[string]string // prepared statements, by name

	mu     sync.Mutex
	silent bool          // drop what the server says
	ready  chan struct{} // closed when it has been dropped
}

// requests passes requests on until the connection is at its end (false) or is to be kept in silence (true).
func (s *stream) requests() (silent bool) {
	var pending bytes.Buffer
	var r request
	simple := false // the last query came without a Sync, and so does the end of its COPY
	for first := true; ; first = false {
		kind, body, err := readMessage(s.client, &pending, first)
		if err != nil {
			return false
		}
		if kind == 'Q' || kind == 'S' {
			simple = kind == 'Q'
		}
		if simple && (kind == 'c' || kind == 'f') {
			if _, err := pending.WriteTo(s.server); err != nil {
				return false
			}
			continue
		}
		switch kind {
		case 'P':
			name, rest, _ := bytes.Cut(body, []byte{0})
			query, _, _ := bytes.Cut(rest, []byte{0})
			s.names[string(name)] = string(query)
			r.prepares = true
			continue
		case 'B':
			_, rest, _ := bytes.Cut(body, []byte{0})
			name, _, _ := bytes.Cut(rest, []byte{0})
			r.begin = r.begin || s.names[string(name)] == "begin"
			r.commit = r.commit || s.names[string(name)] == "commit"
			continue
		case 'S':
		case 0, 'Q', 'p', 'X', 'H':
			if first && len(body) >= 4 && binary.BigEndian.Uint32(body) == cancelCode {
				s.proxy.mu.Lock()
				s.proxy.cancels++
				s.proxy.mu.Unlock()
			}
			if _, err := pending.WriteTo(s.server); err != nil {
				return false
			}
			continue
		default:
			continue
		}
		p := s.proxy
		p.mu.Lock()
		p.trips = append(p.trips, r)
		f := pass
		if p.plan != nil {
			f = p.plan(r)
		}
		p.mu.Unlock()
		r = request{}
		ready := make(chan struct{})
		switch f {
		case cutRequest:
			return false
		case swallowRequest:
			return true
		case holdRequest:
			<-p.release
		case swallowAnswer, cutAnswer:
			s.mu.Lock()
			s.silent, s.ready = true, ready
			s.mu.Unlock()
		}
		if _, err := pending.WriteTo(s.server); err != nil {
			return false
		}
		switch f {
		case cutAtOnce:
			return false
		case cutAnswer:
			<-ready
			return false
		case swallowAnswer:
			return true
		}
	}
}

func (s *stream) answers() {
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.ready != nil {
			close(s.ready)
		}
		if !s.silent {
			_ = s.client.Close()
		}
	}()
	var pending bytes.Buffer
	for {
		kind, _, err := readMessage(s.server, &pending, false)
		if err != nil {
			return
		}
		s.mu.Lock()
		silent := s.silent
		if silent && kind == 'Z' && s.ready != nil {
			close(s.ready)
			s.ready = nil
		}
		s.mu.Unlock()
		if silent {
			pending.Reset()
			continue
		}
		if _, err := pending.WriteTo(s.client); err != nil {
			return
		}
	}
}

// readMessage reads one message of the protocol and appends it to pending as it is. The first message of a client has no
// kind.
func readMessage(from io.Reader, pending *bytes.Buffer, first bool) (kind byte, body []byte, err error) {
	var head [5]byte
	length := head[1:]
	if first {
		_, err = io.ReadFull(from, length)
	} else {
		_, err = io.ReadFull(from, head[:])
		kind = head[0]
		pending.WriteByte(kind)
	}
	if err != nil {
		return 0, nil, err
	}
	n := int(binary.BigEndian.Uint32(length)) - 4
	if n < 0 || n > 64<<20 {
		return 0, nil, errors.New("not a message")
	}
	body = make([]byte, n)
	if _, err := io.ReadFull(from, body); err != nil {
		return 0, nil, err
	}
	pending.Write(length)
	pending.Write(body)
	return kind, body, nil
}
