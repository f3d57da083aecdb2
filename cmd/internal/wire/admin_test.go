package wire

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/saldo-ledger/saldo/internal/admin"
	"github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/internal/ledger"
)

func TestAdvertised(t *testing.T) {
	t.Parallel()
	on := func(address string) net.Addr {
		tcp, err := net.ResolveTCPAddr("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		return tcp
	}
	for _, test := range []struct{ said, listener, want string }{
		{"", "127.0.0.1:8080", "127.0.0.1:8080"},
		{"", "10.1.2.3:8080", "10.1.2.3:8080"},
		{"router-1:80", "0.0.0.0:8080", "router-1:80"},
		{"router-1:80", "127.0.0.1:8080", "router-1:80"},
	} {
		if got := advertised(test.said, on(test.listener)); got != test.want {
			t.Errorf("%q on %s advertises %s, not %s", test.said, test.listener, got, test.want)
		}
	}
	for _, every := range []string{"0.0.0.0:8080", "[::]:8080"} {
		host, port, err := net.SplitHostPort(advertised("", on(every)))
		if ip := net.ParseIP(host); err != nil || port != "8080" || host == "" || ip != nil && (ip.IsUnspecified() || ip.IsLoopback()) {
			t.Errorf("on %s it advertises %s:%s, %v", every, host, port, err)
		}
	}
}

func TestOperatorToken(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "token")
	write := func(content string) {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := readToken(file); err == nil {
		t.Error("there is none, and it is read")
	}
	for _, weak := range []string{"", "\n", "short", strings.Repeat(" ", 40)} {
		write(weak)
		if _, err := readToken(file); err == nil || !strings.Contains(err.Error(), "openssl rand") || weak == "short" && strings.Contains(err.Error(), "short") {
			t.Errorf("%q: %v", weak, err)
		}
	}
	write("correct-horse-battery\n")
	if token, err := readToken(file); err != nil || token != "correct-horse-battery" {
		t.Errorf("%q, %v", token, err)
	}
}

// After an answer was lost a change may have been made: only what etcd was asked, and has answered, is refused.
func TestLostAnswerAboutAMoveIsNoRefusal(t *testing.T) {
	t.Parallel()
	for what, test := range map[string]struct {
		err     error
		unknown bool
	}{
		"done":             {nil, false},
		"phase":            {errors.New("it has ended"), false},
		"changed":          {cluster.ErrChanged, false},
		"etcd's timeout":   {rpctypes.ErrTimeout, true},
		"leader lost":      {rpctypes.ErrTimeoutDueToLeaderFail, true},
		"connection":       {status.Error(codes.Unavailable, "error reading from server: EOF"), true},
		"ours to wait":     {context.DeadlineExceeded, true},
		"the caller's end": {context.Canceled, true},
	} {
		err := test.err
		if err != nil {
			err = fmt.Errorf("abort move 01-a: %w", err)
		}
		got := moveError(err)
		if unknown := ledger.CodeOf(got) == ledger.CodeUnknown; unknown != test.unknown || !test.unknown && got != err {
			t.Errorf("%s: %v", what, got)
		}
	}
}

// A coordinator asks for its token where it has one, changed ones too, and lets nobody in from outside who could say none.
func TestOperatorsAreAskedForTheToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 0)
	serve := func(address, tokenFile string) (url string) {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		config := Coordinator{
			Settle: time.Minute, Poll: time.Second, Postgres: postgres, Etcd: Etcd{Endpoints: w.endpoints, Prefix: w.prefix},
			Rebalance: "manual", MoveSlots: 1, MoveShare: 1, AdminTokenFile: tokenFile,
		}
		w.background(func(ctx context.Context) error {
			return RunCoordinator(ctx, config, Process{Passwords: w.passwords, Log: w.log}, listener)
		})
		_, port, _ := net.SplitHostPort(listener.Addr().String())
		return "http://127.0.0.1:" + port
	}
	ask := func(url, token string) (status int, code string) {
		t.Helper()
		request, err := http.NewRequest(http.MethodGet, url+admin.Prefix+"/cluster", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+token)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		var refused admin.Error
		if err := json.NewDecoder(response.Body).Decode(&refused); err != nil {
			t.Error(err)
		}
		return response.StatusCode, refused.Code
	}
	file := filepath.Join(t.TempDir(), "token")
	write := func(token string) {
		if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("correct-horse-battery")
	open, loopback, asking := serve("0.0.0.0:0", ""), serve("127.0.0.1:0", ""), serve("0.0.0.0:0", file)
	w.eventually(long, "operators are served", func() bool {
		status, _ := ask(loopback, "")
		return status == http.StatusOK
	})
	w.eventually(long, "with the token", func() bool {
		status, _ := ask(asking, "correct-horse-battery")
		return status == http.StatusOK
	})
	for _, test := range []struct {
		url, token string
		status     int
		code       string
	}{
		{open, "", 403, "token_needed"},
		{open, "correct-horse-battery", 403, "token_needed"},
		{asking, "", 401, "unauthenticated"},
		{asking, "another-horse-battery", 401, "unauthenticated"},
	} {
		if status, code := ask(test.url, test.token); status != test.status || code != test.code {
			t.Errorf("%s with %q: %d %s", test.url, test.token, status, code)
		}
	}
	write("another-horse-battery")
	if status, _ := ask(asking, "another-horse-battery"); status != http.StatusOK {
		t.Errorf("with the new token: %d", status)
	}
	if status, _ := ask(asking, "correct-horse-battery"); status != http.StatusUnauthorized {
		t.Errorf("with the old token: %d", status)
	}

	weak := filepath.Join(t.TempDir(), "weak")
	if err := os.WriteFile(weak, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	config := Coordinator{Postgres: postgres, Etcd: Etcd{Endpoints: w.endpoints, Prefix: w.prefix}, AdminTokenFile: weak}
	if err := RunCoordinator(w.ctx, config, Process{Passwords: w.passwords, Log: w.log}, listener); err == nil || !strings.Contains(err.Error(), "openssl rand") {
		t.Errorf("a weak token: %v", err)
	}
}
