package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"github.com/saldo-ledger/saldo/cmd/internal/wire"
	"github.com/saldo-ledger/saldo/internal/admin"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/telemetry"
)

// telemetryOnce makes this process's metrics readable, as a router's are.
var telemetryOnce = sync.OnceValues(func() (*telemetry.Telemetry, error) {
	return telemetry.Start(context.Background(), telemetry.Config{Service: "test"})
})

// operator is a terminal in front of a cluster of two shards that runs.
type operator struct {
	*terminal
	router string // URL
	dsns   []string
	token  string // file
}

func newOperator(t *testing.T) *operator {
	t.Helper()
	u := &operator{terminal: newTerminal(t)}
	u.dsns = []string{u.addShard("s1", "--initial-shards", "2"), u.addShard("s2")}
	shown, err := telemetryOnce()
	if err != nil {
		t.Fatal(err)
	}
	parsed := struct{ target }{}
	if _, err := wire.Parse(&parsed, "saldo", "", u.flags, io.Discard, io.Discard, kong.Vars{"data": t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	postgres := wire.Postgres{Writers: 1, MaxBatch: 512, QueueSize: 8192, ReadConns: 2, BalanceBatch: 1024, PasswordFile: parsed.PasswordFile}
	passwords, err := postgres.Passwords()
	if err != nil {
		t.Fatal(err)
	}
	process := wire.Process{Passwords: passwords, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Metrics: shown.Metrics}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	serve := func(run func(net.Listener) error) (url string) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		running.Go(func() {
			if err := run(listener); err != nil {
				t.Error(err)
			}
		})
		return "http://" + listener.Addr().String()
	}
	u.token = filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(u.token, []byte("correct-horse-battery\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	address := serve(func(l net.Listener) error {
		return wire.RunCoordinator(ctx, wire.Coordinator{
			Settle: 500 * time.Millisecond, Poll: 50 * time.Millisecond, Handover: time.Second, Rebalance: "manual", MoveSlots: 128, MoveShare: 1,
			AdminTokenFile: u.token, Etcd: parsed.Etcd, Postgres: postgres,
		}, process, l)
	})
	u.router = serve(func(l net.Listener) error {
		return wire.RunRouter(ctx, wire.Router{
			Currency: "USD", Wait: 2 * time.Second, Handover: time.Second, Timeout: 8 * time.Second, Grace: time.Second, MaxRequests: 100,
			Etcd: parsed.Etcd, Postgres: postgres,
		}, process, l)
	})
	u.flags = []string{"--admin", address, "--admin-token-file", u.token}
	until := time.Now().Add(30 * time.Second)
	for {
		response, err := http.Get(u.router + "/readyz")
		if err == nil {
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				break
			}
		}
		if time.Now().After(until) {
			t.Fatal("the router does not get ready")
		}
		time.Sleep(20 * time.Millisecond)
	}
	for id, amount := range map[string]int{u.on(0, "alice"): 100, u.on(1, "bob"): 0} {
		u.post("/users", map[string]any{"id": id, "name": id}, 201)
		if amount > 0 {
			u.post("/users/"+id+"/add", map[string]any{"amount": amount, "transaction_id": "opening"}, 202)
		}
	}
	return u
}

// on returns an id that begins with name and lives on a shard.
func (u *operator) on(shard int, name string) string {
	for n := 0; ; n++ {
		id := fmt.Sprint(name, n)
		if int(placement.SlotOf(ledger.UserID(id)))/2048 == shard {
			return id
		}
	}
}

// post asks the router, until it answers so.
func (u *operator) post(path string, body any, want int) {
	u.Helper()
	content, err := json.Marshal(body)
	if err != nil {
		u.Fatal(err)
	}
	for until := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		response, err := http.Post(u.router+path, "application/json", bytes.NewReader(content))
		if err != nil {
			u.Fatal(err)
		}
		answer, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if response.StatusCode == want {
			return
		}
		if response.StatusCode != http.StatusServiceUnavailable || time.Now().After(until) {
			u.Fatalf("%s: %s %s", path, response.Status, answer)
		}
	}
}

// says runs a command that succeeds and says all of this.
func (u *operator) says(args string, words ...string) {
	u.Helper()
	stdout, stderr, err := u.types("", strings.Fields(args)...)
	for _, word := range words {
		if !strings.Contains(stdout+stderr, word) {
			u.Errorf("saldo %s does not say %q: %v\n%s%s", args, word, err, stdout, stderr)
			return
		}
	}
	if err != nil {
		u.Errorf("saldo %s: %v\n%s%s", args, err, stdout, stderr)
	}
}

// One transfer that ends, one that comes back, one that is held up and has to be tried again, as an operator sees them.
func TestOperatorFollowsTransfers(t *testing.T) {
	t.Parallel()
	u := newOperator(t)
	alice, bob, nobody := u.on(0, "alice"), u.on(1, "bob"), u.on(1, "nobody")
	transfer := func(txID, to string, want int) {
		t.Helper()
		u.post("/transfers", map[string]any{"source": alice, "destination": to, "amount": 25, "transaction_id": txID, "description": "rent"}, want)
	}
	transfer("done", bob, 201)
	transfer("returned", nobody, 422)

	u.says("transfer show "+alice+"/done", alice+"/done: 25 USD to "+bob, "COMPLETED after", `"rent"`, "● start", "● credit", "■ end", "▶",
		alice+" -25 USD, balance 75", bob+" +25 USD, balance 25")
	u.says("transfer show returned", "REFUNDED (payee_not_found)", "refused: payee_not_found", "● refund", "REFUNDED: payee_not_found", "◀")
	u.says("transfer show opening", "add 100 USD", "COMPLETED")
	u.says("saga show "+alice+" done", "COMPLETED after")
	u.says("saga list --state completed", alice+"/done", "s1", "s2")
	u.says("saga list --state refunded", alice+"/returned", "payee_not_found")
	u.says("saga list", "no transfer between shards is pending")
	u.says("saga retry "+alice+"/done", "it had ended before: COMPLETED")
	u.says("user show "+alice, "lives on  shard s1", "75 USD", "4 entries", "(refund)", alice+"/returned", bob)

	var list admin.TransferList
	u.reads(&list, "transfer", "show", alice+"/returned")
	if len(list.Transfers) != 1 || len(list.Transfers[0].Steps) != 4 || list.Transfers[0].Status != "REFUNDED" {
		t.Errorf("%+v", list)
	}
	var user admin.User
	u.reads(&user, "user", "show", bob)
	if user.Shard != "s2" || user.Accounts[0].Balance != 25 {
		t.Errorf("%+v", user)
	}

	// bob's slot stands still.
	slot := placement.SlotOf(ledger.UserID(bob))
	u.sql(u.dsns[1], fmt.Sprintf(`update saldo.slots set state = 'fenced', fenced_at = now() + interval '1 hour' where slot = %d`, slot))
	transfer("held", bob, 202)
	var held admin.SagaList
	u.reads(&held, "saga", "list")
	if len(held.Sagas) != 1 || held.Sagas[0].TxID != "held" || held.Sagas[0].PayeeShard != "s2" {
		t.Fatalf("%+v", held)
	}
	u.says("saga list --older-than 1h", "no transfer")
	u.says("saga show "+alice+"/held", "PENDING for", "in transit", "have it tried now: saldo saga retry")
	var code wire.ExitCode
	if _, stderr, err := u.types("", "saga", "retry", alice+"/held"); !errors.As(err, &code) || code != 1 || !strings.Contains(stderr, "is still pending: the shard does not take it") {
		t.Errorf("of one that is held up: %v, %s", err, stderr)
	}
	u.says("top --once", "SHARD", "s1", "ROUTER", alice+"/held")
	u.sql(u.dsns[1], fmt.Sprintf(`update saldo.slots set state = 'owned', fenced_at = null where slot = %d`, slot))
	var retry admin.SagaRetry
	u.reads(&retry, "saga", "retry", alice+"/held")
	if retry.State != "COMPLETED" {
		t.Errorf("tried again: %+v", retry)
	}

	u.refused("there is no user alicia", "user", "show", "alicia")
	u.refused("is it one of these? "+alice, "user", "show", alice+"x")
	u.refused("is it one of these? returned", "transfer", "show", "returnde")
	u.refused("is no transfer between shards", "saga", "show", alice+"/opening")
	u.refused("say INITIATOR/TX_ID", "saga", "show", "held")
	u.refused("has no transfer nothing", "saga", "retry", alice+"/nothing")
}

func TestOperatorWatches(t *testing.T) {
	t.Parallel()
	u := newOperator(t)
	alice := u.on(0, "alice")
	var stop sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	stop.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			u.post("/users/"+alice+"/add", map[string]any{"amount": 1, "transaction_id": fmt.Sprint("tx", i)}, 202)
		}
	})
	defer stop.Wait()
	defer cancel()
	u.says("top --once", "2 shards, 1 routers, 1 coordinators", "active", "2048", "ms")
	// What Postgres counts comes a second late.
	for until := time.Now().Add(20 * time.Second); ; {
		var seen sight
		u.reads(&seen, "top")
		if len(seen.Figures.Routers) == 1 && seen.Figures.Routers[0].RequestsPerSecond > 1 && len(seen.Figures.Shards) == 2 &&
			seen.Figures.Shards[0].OperationsPerSecond > 1 && len(seen.Figures.Routers[0].Lanes) > 0 && seen.Figures.Routers[0].P99 != nil {
			break
		}
		if time.Now().After(until) {
			t.Fatalf("no rates: %+v", seen.Figures)
		}
	}

	// On a terminal, until q.
	keys, typed := io.Pipe()
	screen := new(lockedScreen)
	client := &admin.Client{URL: u.flags[1], Token: "correct-horse-battery"}
	ended := make(chan error, 1)
	go func() {
		ended <- watchTop(t.Context(), client, time.Second, streams{in: keys, out: screen, err: io.Discard})
	}()
	for until := time.Now().Add(20 * time.Second); !strings.Contains(screen.String(), "SHARD") && time.Now().Before(until); {
		time.Sleep(20 * time.Millisecond)
	}
	if _, err := typed.Write([]byte("q")); err != nil {
		t.Error(err)
	}
	err := <-ended
	typed.Close()
	if err != nil || !strings.Contains(screen.String(), "SHARD") || !strings.Contains(screen.String(), "\x1b[?1049l") {
		t.Errorf("%v\n%q", err, screen.String())
	}
}

// lockedScreen is a terminal that shows nothing.
type lockedScreen struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *lockedScreen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *lockedScreen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// Who cannot ask is told what to do.
func TestDeskHelps(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	nobody := &terminal{T: t, flags: []string{"--data", data, "--admin", "127.0.0.1:1"}}
	nobody.refused("start a cluster with `saldo dev`", "top", "--once")
	nobody.refused("SALDO_ADMIN", "saga", "list")

	answers := make(map[string]admin.Error)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		refused := answers["now"]
		w.WriteHeader(refused.StatusCode)
		_ = json.NewEncoder(w).Encode(refused)
	}))
	t.Cleanup(server.Close)
	file := &clusterFile{Admin: server.URL}
	if err := file.write(data); err != nil {
		t.Fatal(err)
	}
	u := &terminal{T: t, flags: []string{"--data", data}}
	answers["now"] = admin.Error{StatusCode: 401, Code: "unauthenticated", Message: "say the operator's token"}
	u.refused("--admin-token-file FILE or SALDO_ADMIN_TOKEN_FILE", "saga", "list")
	answers["now"] = admin.Error{StatusCode: 403, Code: "token_needed", Message: "give it one with SALDO_ADMIN_TOKEN_FILE"}
	u.refused("give it one with SALDO_ADMIN_TOKEN_FILE", "top", "--json")
	answers["now"] = admin.Error{StatusCode: 500, Code: "internal", Message: "internal error", TraceID: "0af7"}
	u.refused("0af7", "user", "show", "alice")
	answers["now"] = admin.Error{StatusCode: 404}
	u.refused("what answers there is no coordinator", "user", "show", "alice")
	u.refused("read the operator's token", "user", "show", "alice", "--admin-token-file", filepath.Join(data, "none"))
	u.refused("user id must be", "user", "show", "@alice")
	u.refused("--interval is", "top", "--interval", "10ms")
}

func TestTopShows(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)
	wait := 0.0021
	s := sight{
		At: at,
		Cluster: admin.Cluster{UID: "c0ffee00-1", Founded: true, Shards: 2, Routers: make([]admin.Process, 1),
			Leaders: []admin.Leader{{Election: "rebalancer"}}, Registry: admin.Contact{Connected: true, Revision: 99}},
		Shards: admin.ShardList{Shards: []admin.ShardInfo{{ID: "s1", State: "active", Slots: 4096, Answers: true}, {ID: "s2", State: "draining", Error: "it refuses: no"}}},
		Figures: admin.Figures{
			Shards: []admin.ShardFigures{{ID: "s1", Answers: true, OperationsPerSecond: 1234, PendingSagas: 3, OldestPending: 75, DatabaseBytes: 5 << 30}, {ID: "s2"}},
			Routers: []admin.RouterFigures{
				{Process: admin.Process{Name: "r1", Address: "10.0.0.7:8080", StartedAt: at.Add(-time.Hour)}, Answers: true, RequestsPerSecond: 4321, P99: &wait,
					Lanes: []admin.LaneFigures{{Shard: "s1", Queue: 7, OperationsPerSecond: 100, Batch: ptr(10.0), WaitP99: &wait}}},
				{Process: admin.Process{Name: "r2"}, Error: "its /metrics cannot be reached at x"},
			},
		},
		Moves: admin.MoveList{Moves: []admin.MoveInfo{{ID: "0123456789abcdef", Source: "s2", Target: "s1", Number: 128, Phase: "copy",
			CreatedAt: at.Add(-90 * time.Second), Progress: &admin.MoveProgress{Rows: 1000, Expected: 5000}}}},
		Sagas: admin.SagaList{Next: "x", Sagas: []admin.SagaInfo{{Initiator: "alice", TxID: "t1", Payee: "bob", Amount: 1500, Currency: "USD", Home: "s1", Seconds: 75}}},
	}
	shown := showTop(s, page{})
	for _, words := range []string{
		"saldo c0ffee00 ", "! shard s2 does not answer: it refuses: no", "! router r2: its /metrics", "1,234", "1m15s", "2.1 ms", "10.0", "5.0 GiB", "4,321", "1h0m0s",
		"…abcdef", "1,000 of about 5,000", "alice/t1", "1,500 USD", "and more: saldo saga list",
	} {
		if !strings.Contains(shown, words) {
			t.Errorf("it does not show %q:\n%s", words, shown)
		}
	}
	small := showTop(s, page{width: 40, height: 6, color: true, problem: "the coordinator is away\n  do something"})
	lines := strings.Split(small, "\n")
	if len(lines) != 6 || !strings.HasPrefix(lines[0], red+"! the coordinator") || strings.Contains(small, "5.0 GiB") {
		t.Errorf("on a small terminal:\n%s", small)
	}

	// What was seen stays while the coordinator is away.
	screen := top{client: &admin.Client{URL: "http://x"}}
	if text := screen.text(page{}); !strings.Contains(text, "looking at the cluster behind http://x") {
		t.Errorf("at first: %s", text)
	}
	screen.note(looked{err: &admin.Unreachable{URL: "http://x", Cause: io.EOF}})
	if text := screen.text(page{}); !strings.Contains(text, "! ask the coordinator at http://x: EOF") || !strings.Contains(text, "saldo dev") {
		t.Errorf("when nobody has ever answered: %s", text)
	}
	screen.note(looked{seen: s})
	if text := screen.text(page{}); !strings.Contains(text, "c0ffee00") || strings.Contains(text, "EOF") {
		t.Errorf("when something was seen: %s", text)
	}
	screen.note(looked{err: &admin.Unreachable{URL: "http://x", Cause: io.EOF}})
	if text := screen.text(page{}); !strings.Contains(text, "c0ffee00") || !strings.Contains(text, "! ask the coordinator at http://x: EOF") {
		t.Errorf("while it is away: %s", text)
	}
}

func ptr[T any](value T) *T { return &value }

func TestCompletion(t *testing.T) {
	t.Parallel()
	u := &terminal{T: t}
	could := func(words ...string) string {
		t.Helper()
		var texts []string
		for line := range strings.Lines(u.does(append([]string{"__complete", "--"}, words...)...)) {
			text, help, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
			if help == "" {
				t.Errorf("%s is not explained", text)
			}
			texts = append(texts, text)
		}
		return strings.Join(texts, " ")
	}
	for _, test := range []struct {
		words []string
		want  string
	}{
		{[]string{"sa"}, "saga"},
		{[]string{"saga", ""}, "list retry show"},
		{[]string{"saga", "list", "--st"}, "--state"},
		{[]string{"saga", "list", "--state", "re"}, "refunded"},
		{[]string{"saga", "list", "--shard", "x", "--ol"}, "--older-than"},
		{[]string{"saga", "list", "--shard=x", "--ol"}, "--older-than"},
		{[]string{"completion", ""}, "bash fish zsh"},
		{[]string{"completion", "bash", ""}, ""},
		{[]string{"__"}, ""},
		{[]string{"nonsense", "sag"}, "saga"},
	} {
		if got := could(test.words...); got != test.want {
			t.Errorf("after %q could come %q, not %q", test.words, got, test.want)
		}
	}
	if all := could(); !strings.Contains(all, "top") || !strings.Contains(all, "user") {
		t.Errorf("at first could come %q", all)
	}
	u.refused("must be one of", "completion", "tcsh")
	// A saldo of the shell's own: what matters is how the script asks, and takes the answers. Each shell is told of "list",
	// and says it after what was typed: saldo saga "".
	for shell, typing := range map[string][2]string{
		"bash": {`saldo() { [[ $* == "__complete -- saga " ]] && printf 'list\tShow them.\n'; }; `,
			`COMP_WORDS=(saldo saga ""); COMP_CWORD=2; _saldo; echo "${COMPREPLY[@]}"`},
		"zsh": {`saldo() { [[ "$*" == "__complete -- saga " ]] && printf 'list\tShow them.\n' }; compdef() { }; _describe() { print ${${(P)2}%%:*} }; `,
			`words=(saldo saga ""); CURRENT=3; _saldo`},
		"fish": {`function saldo; test "$argv" = "__complete -- saga "; and printf 'list\tShow them.\n'; end; `,
			`complete -C "saldo saga " | cut -f1`},
	} {
		script := u.does("completion", shell)
		path, err := exec.LookPath(shell)
		if err != nil {
			continue // it is not here
		}
		command := exec.Command(path, "-c", typing[0]+script+typing[1])
		command.Env, command.Dir = append(os.Environ(), "HOME="+t.TempDir()), t.TempDir()
		out, err := command.CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != "list" {
			t.Errorf("%s: %v: %q", shell, err, out)
		}
	}
}
