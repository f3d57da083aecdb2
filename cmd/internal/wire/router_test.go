package wire

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// A router that stops still answers on the connections that there are, and says that they end: a client never sends a
// request into a connection that is being closed.
func TestStoppingRouterClosesConnections(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	stop := w.background(func(ctx context.Context) error {
		return RunRouter(ctx, Router{
			Currency: "USD", Wait: time.Second, Timeout: time.Second, Grace: time.Second, Postgres: postgres,
			Etcd: Etcd{Endpoints: w.endpoints, Prefix: w.prefix},
		}, Process{Passwords: w.passwords, Log: w.log}, listener)
	})
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	answers := bufio.NewReader(conn)
	ask := func() (closes bool) {
		t.Helper()
		if _, err := conn.Write([]byte("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
		response, err := http.ReadResponse(answers, nil)
		if err != nil || response.StatusCode != http.StatusOK {
			t.Fatalf("%+v, %v", response, err)
		}
		_, _ = io.Copy(io.Discard, response.Body)
		return response.Close
	}
	first, second := ask(), ask()
	if first || second {
		t.Error("a connection is closed in peace")
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		stop()
	}()
	time.Sleep(drain / 3)
	if !ask() {
		t.Error("the answer does not say that the connection ends")
	}
	<-stopped
}
