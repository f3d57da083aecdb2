package admin_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/saldo-ledger/saldo/internal/admin"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

func TestDocumentIsWhatIsServed(t *testing.T) {
	t.Parallel()
	if got, want := document().operations(), admin.Routes(); !slices.Equal(got, want) {
		t.Errorf("openapi.yaml has\n%s\nthe routes are\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	var codes []string
	for _, code := range document().doc.Components.Schemas["Error"].Value.Properties["code"].Value.Enum {
		codes = append(codes, code.(string))
	}
	slices.Sort(codes)
	if !slices.Equal(codes, admin.Codes()) {
		t.Errorf("openapi.yaml has the codes %v, there are %v", codes, admin.Codes())
	}
}

func TestCluster(t *testing.T) {
	e := newEnv(t)
	e.world.routers = []admin.Process{{Name: "r1", Address: "127.0.0.1:8080", Version: "test", StartedAt: begun}}
	c := read[admin.Cluster](e.get("/cluster"))
	if !c.Founded || c.Shards != 2 || c.Registry.Revision != 7 || len(c.Routers) != 1 || len(c.Coordinators) != 1 || c.AnsweredBy != "c1" {
		t.Errorf("%+v", c)
	}
	if want := (admin.Leader{Election: "sagas.s2", Home: "s2", Coordinator: "c2"}); !slices.Contains(c.Leaders, want) {
		t.Errorf("leaders are %+v", c.Leaders)
	}
	e.world.away = errors.New("password=hunter2")
	if c := e.get("/cluster"); !strings.Contains(string(c.body), "does not answer now") || strings.Contains(string(c.body), "hunter2") {
		t.Errorf("without etcd: %s", c.body)
	}
	e.world.mu.Lock()
	e.world.view = nil
	e.world.mu.Unlock()
	e.get("/cluster").refused(503, "unavailable")
	e.get("/shards").refused(503, "unavailable")
	e.get("/users/alice").refused(503, "unavailable")
}

func TestShards(t *testing.T) {
	e := newEnv(t)
	e.world.shards["s1"].counters = ledger.ShardCounters{Pending: ledger.MaxPending + 1, OldestPending: begun, DatabaseBytes: 1 << 20}
	e.world.change(func(v *admin.View) {
		v.Shards[1].Draining = true
		v.Moves = []placement.Move{{ID: "m1", Source: "s2", Target: "s1", Slots: placement.NewSlotSet(4000), Phase: placement.PhasePlanned}}
	})
	e.world.shards["s2"].setDown(ledger.Unavailable("it does not answer", errors.New("password=hunter2")))
	list := read[admin.ShardList](e.get("/shards")).Shards
	one, two := list[0], list[1]
	if !one.Answers || one.PendingSagas != ledger.MaxPending || !one.MorePending || one.Slots != 2048 || one.Share != 1 || one.Driver != "c1" || one.OldestPending == nil {
		t.Errorf("s1: %+v", one)
	}
	if one.Moves[0].Direction != "in" || two.Moves[0].Direction != "out" || two.Moves[0].Slots != 1 {
		t.Errorf("moves: %+v and %+v", one.Moves, two.Moves)
	}
	if two.Answers || two.Error != "it does not answer" || two.State != "draining" || two.Share != 0 {
		t.Errorf("s2: %+v", two)
	}
	if s := read[admin.ShardInfo](e.get("/shards/s1")); s.Standing == nil || s.Standing.Followers[0].Name != "a" {
		t.Errorf("standing: %+v", s.Standing)
	}
	if s := read[admin.ShardInfo](e.get("/shards/s2")); s.Standing.Error != "it does not answer" {
		t.Errorf("standing of one that is down: %+v", s.Standing)
	}
	if got := e.get("/shards/s3").refused(404, "shard_not_found"); !slices.Equal(got.Similar, []string{"s1", "s2"}) {
		t.Errorf("similar: %v", got.Similar)
	}
}

func TestSlots(t *testing.T) {
	e := newEnv(t)
	e.world.change(func(v *admin.View) {
		v.Moves = []placement.Move{{ID: "m1", Source: "s1", Target: "s2", Slots: placement.NewSlotSet(7, 8, 9), Phase: placement.PhaseCopy, CreatedAt: begun}}
	})
	texts := func(path string) (all []string) {
		for _, r := range read[admin.SlotList](e.get(path)).Ranges {
			all = append(all, fmt.Sprintf("%d-%d %s>%s", r.First, r.Last, r.Shard, r.To))
		}
		return all
	}
	for path, want := range map[string]string{
		"/slots":             "0-6 s1>, 7-9 s1>s2, 10-2047 s1>, 2048-4095 s2>",
		"/slots?shard=s2":    "2048-4095 s2>",
		"/slots?slot=8,4095": "8-8 s1>s2, 4095-4095 s2>",
		"/slots?user=bob":    fmt.Sprintf("%[1]d-%[1]d s2>", placement.SlotOf("bob")),
	} {
		if got := strings.Join(texts(path), ", "); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	e.get("/slots?slot=4096").refused(400, "malformed_request")
	e.get("/slots?user=@x").refused(400, "malformed_request")
	e.get("/slots?shard=s9").refused(404, "shard_not_found")
	e.get("/slots?shrad=s1").refused(400, "malformed_request")
	e.get("/slots?slot=1&slot=2").refused(400, "malformed_request")
}

func TestMoves(t *testing.T) {
	e := newEnv(t)
	e.world.change(func(v *admin.View) {
		ended := begun.Add(time.Minute)
		v.Moves = []placement.Move{
			{ID: "01-a", Source: "s1", Target: "s2", Slots: placement.NewSlotSet(7), Phase: placement.PhaseCopy, Why: "drain", CreatedAt: begun},
			{ID: "02-b", Source: "s2", Target: "s1", Slots: placement.NewSlotSet(4000), Phase: placement.PhaseDone, CreatedAt: begun, EndedAt: &ended, DecidedAt: &ended},
		}
	})
	list := read[admin.MoveList](e.get("/moves"))
	if len(list.Moves) != 1 || list.Ended != 1 || list.Leader != "c1" || list.Moves[0].Progress.Rows != 10 || list.Moves[0].Number != 1 {
		t.Errorf("%+v", list)
	}
	if list := read[admin.MoveList](e.get("/moves?all=true")); len(list.Moves) != 2 || list.Moves[1].Progress != nil {
		t.Errorf("all: %+v", list)
	}
	e.get("/moves?all=perhaps").refused(400, "malformed_request")
	if m := read[admin.MoveInfo](e.get("/moves/b")); m.ID != "02-b" {
		t.Errorf("%+v", m)
	}
	e.get("/moves/c").refused(404, "move_not_found")
	if got := e.get("/moves/0").refused(404, "move_not_found"); len(got.Similar) != 2 {
		t.Errorf("ambiguous: %+v", got)
	}
	if m := read[admin.MoveInfo](e.post("/moves/01-a/pause", "{}")); !m.Paused {
		t.Errorf("paused: %+v", m)
	}
	if m := read[admin.MoveInfo](e.post("/moves/01-a/resume", "")); m.Paused {
		t.Errorf("resumed: %+v", m)
	}
	if m := read[admin.MoveInfo](e.post("/moves/01-a/abort", `{"why":"a test"}`)); m.Phase != placement.PhaseAborted || m.Cause != "a test" {
		t.Errorf("aborted: %+v", m)
	}
	if got := e.post("/moves/01-a/pause", "{}").refused(409, "move_refused"); got.Message != "it has ended" {
		t.Errorf("refused: %+v", got)
	}
	for what, err := range map[string]error{
		"a lost answer":       ledger.Unknown(errors.New("password=hunter2")),
		"none within a while": fmt.Errorf("pause move 01-a: %w", context.DeadlineExceeded),
		"the caller has gone": fmt.Errorf("pause move 01-a: %w", context.Canceled),
	} {
		e.world.unsure = err
		if got := e.post("/moves/01-a/pause", "{}").refused(504, "outcome_unknown"); !strings.Contains(got.Message, "the move's record tells") {
			t.Errorf("%s: %+v", what, got)
		}
	}
	e.world.unsure = ledger.Unavailable("etcd does not answer now", nil)
	e.post("/moves/01-a/resume", "{}").refused(503, "unavailable")
	e.post("/moves/01-a/abort", `{"wy":"a test"}`).refused(400, "malformed_request")
	e.post("/moves/01-a/abort", `{} {}`).refused(400, "malformed_request")
	e.post("/moves/01-a/abort", `{"why":"`+strings.Repeat("x", 501)+`"}`).refused(400, "malformed_request")
	e.post("/moves/01-a/abort", `{"why":"`+strings.Repeat("x", 20_000)+`"}`).refused(413, "payload_too_large")
	e.get("/moves/01-a/pause").refused(405, "method_not_allowed")
	if got := e.do("DELETE", admin.Prefix+"/moves/01-a", ""); got.header.Get("Allow") != "GET" {
		t.Errorf("Allow: %v", got.header)
	}
}

func TestSagas(t *testing.T) {
	e := newEnv(t)
	now := time.Now().UTC().Truncate(time.Microsecond)
	for i := range 5 {
		e.world.saga(ledger.TxID(fmt.Sprint("p", i)), now.Add(time.Duration(-i)*time.Minute), ledger.SagaPending)
	}
	e.world.saga("c0", now.Add(-time.Hour), ledger.SagaCompleted)
	e.world.saga("r0", now.Add(-time.Hour), ledger.SagaRefunded)
	// One of another home, between these.
	strange := e.world.shards["s1"].sagas[2]
	strange.Identity, strange.CreatedAt = ledger.Identity{Initiator: "bob", TxID: "x"}, now.Add(-90*time.Second)
	e.world.shards["s2"].sagas = append(e.world.shards["s2"].sagas, strange)

	var all []string
	for path := "/sagas?limit=2"; path != ""; {
		page := read[admin.SagaList](e.get(path))
		for _, s := range page.Sagas {
			all = append(all, string(s.TxID)+"@"+string(s.Home))
		}
		if path = ""; page.Next != "" {
			path = "/sagas?limit=2&after=" + page.Next
		}
	}
	if got := strings.Join(all, " "); got != "p4@s1 p3@s1 p2@s1 x@s2 p1@s1 p0@s1" {
		t.Errorf("pending, from the oldest on: %s", got)
	}
	if old := read[admin.SagaList](e.get("/sagas?older_than=150s")); len(old.Sagas) != 2 || old.Sagas[0].Seconds < 240 || old.Sagas[0].TraceID != "4bf92f3577b34da6a3ce929d0e0e4736" {
		t.Errorf("old ones: %+v", old.Sagas)
	}
	refunded := read[admin.SagaList](e.get("/sagas?state=refunded"))
	if len(refunded.Sagas) != 1 || refunded.Sagas[0].Cause != "balance_limit" || refunded.Sagas[0].Seconds > 1 || refunded.Sagas[0].PayeeShard != "s2" {
		t.Errorf("refunded: %+v", refunded.Sagas)
	}
	if page := read[admin.SagaList](e.get("/sagas?shard=s2")); len(page.Sagas) != 1 {
		t.Errorf("of s2: %+v", page.Sagas)
	}
	next := read[admin.SagaList](e.get("/sagas?limit=1")).Next
	for _, query := range []string{"state=strange", "limit=0", "limit=501", "limit=x", "older_than=-1s", "older_than=9", "after=!", "after=e30", "state=refunded&after=" + next} {
		e.get("/sagas?"+query).refused(400, "malformed_request")
	}
	e.world.shards["s2"].setDown(ledger.Unavailable("it does not answer", nil))
	if page := read[admin.SagaList](e.get("/sagas")); len(page.Sagas) != 5 || len(page.Unanswered) != 1 || page.Unanswered[0].Shard != "s2" {
		t.Errorf("with s2 down: %+v", page)
	}
}

func TestSagaAndItsRetry(t *testing.T) {
	e := newEnv(t)
	pending := e.world.saga("t1", time.Now().Add(-time.Minute), ledger.SagaPending)
	e.world.saga("t2", begun, ledger.SagaRefunded)

	s := read[admin.Saga](e.get("/sagas/alice/t2"))
	var way []string
	for _, step := range s.Steps {
		way = append(way, fmt.Sprintf("%s %s %s%s", step.Shard, step.Step, step.Outcome, step.Reason))
	}
	if got := strings.Join(way, ", "); got != "s1 start applied, s2 credit refusedbalance_limit, s1 refund applied, s1 end REFUNDEDbalance_limit" {
		t.Errorf("the way is %s", got)
	}
	if s.Steps[0].Change != -25 || s.Steps[2].Change != 25 || *s.Steps[0].Balance != 75 || s.Steps[1].Balance != nil {
		t.Errorf("%+v", s.Steps)
	}

	e.world.retry = func(s ledger.Saga) (ledger.Saga, error) {
		return s, ledger.Unavailable("the shard is down or busy: try again", errors.New("password=hunter2"))
	}
	if retry := read[admin.SagaRetry](e.post("/sagas/alice/t1/retry", "{}")); !retry.Tried || retry.State != "PENDING" || !strings.Contains(retry.Problem, "down or busy") {
		t.Errorf("no answer: %+v", retry)
	}
	e.world.retry = func(s ledger.Saga) (ledger.Saga, error) { s.State = ledger.SagaCompleted; return s, nil }
	if retry := read[admin.SagaRetry](e.post("/sagas/alice/t1/retry", "{}")); retry.State != "COMPLETED" || retry.EndedAt == nil || retry.Problem != "" {
		t.Errorf("it ends: %+v", retry)
	}
	if len(e.world.retried) != 2 || e.world.retried[1] != pending.Saga {
		t.Errorf("tried: %+v", e.world.retried)
	}
	if retry := read[admin.SagaRetry](e.post("/sagas/alice/t2/retry", "{}")); retry.Tried || retry.State != "REFUNDED" || len(e.world.retried) != 2 {
		t.Errorf("of one that has ended: %+v", retry)
	}
	e.post("/sagas/alice/t3/retry", "{}").refused(404, "transfer_not_found")
	e.get("/sagas/al%2Fice/t1").refused(400, "malformed_request")
	if strings.Contains(e.log.String(), "hunter2") && !strings.Contains(e.log.String(), "problem=") {
		t.Error(e.log.String())
	}
}

// What a shard has that is not the saga's home may be of a transfer that nobody has paid: it is shown, and nothing is done.
func TestNothingIsDoneByACopyOfASaga(t *testing.T) {
	e := newEnv(t)
	e.world.retry = func(s ledger.Saga) (ledger.Saga, error) { return s, nil }
	e.world.saga("t1", begun, ledger.SagaPending)
	home, other := e.world.shards["s1"], e.world.shards["s2"]
	steps, sagas := home.steps, home.sagas
	refused := func(what string) {
		t.Helper()
		if s := read[admin.Saga](e.get("/sagas/alice/t1")); s.State != "PENDING" {
			t.Errorf("%s: %+v", what, s)
		}
		got := e.post("/sagas/alice/t1/retry", "{}").refused(503, "unavailable")
		if !strings.Contains(got.Message, "its home, shard s1, does not answer or does not have it") || len(e.world.retried) != 0 {
			t.Errorf("%s: %+v, tried %+v", what, got, e.world.retried)
		}
	}
	other.steps, other.sagas = steps, sagas
	home.setDown(ledger.Unavailable("it does not answer", nil))
	refused("its home is down")
	home.setDown(nil)
	home.steps, home.sagas = nil, nil
	refused("its home has lost it")
	ofS2 := other.slots
	other.slots = func(ledger.Slot) string { return "owned" }
	refused("another shard takes the slot for its own")
	other.slots = ofS2
	ofS1 := home.slots
	home.steps, home.sagas, home.slots = steps, sagas, func(ledger.Slot) string { return "incoming" }
	refused("its home is about to get it")
	home.slots, other.sagas = ofS1, nil
	other.sagas = []ledger.SagaSight{sagas[0]}
	other.sagas[0].State = ledger.SagaRefunded
	if retry := read[admin.SagaRetry](e.post("/sagas/alice/t1/retry", "{}")); !retry.Tried || len(e.world.retried) != 1 || e.world.retried[0] != sagas[0].Saga {
		t.Errorf("by its home's own: %+v, tried %+v", retry, e.world.retried)
	}
	home.sagas, other.sagas = nil, nil
	e.get("/sagas/alice/t1").refused(503, "unavailable")
}

// Whoever looks for ended sagas has all there are read: one at a time.
func TestEndedSagasAreLookedForOneAtATime(t *testing.T) {
	e := newEnv(t)
	looks := make(chan chan struct{})
	e.world.shards["s1"].looks = looks
	first := make(chan answer)
	go func() { first <- e.get("/sagas?state=completed&shard=s1") }()
	done := <-looks
	for _, state := range []string{"completed", "refunded"} {
		if got := e.get("/sagas?shard=s2&state="+state).refused(503, "unavailable"); !strings.Contains(got.Message, "already") {
			t.Errorf("%+v", got)
		}
	}
	read[admin.SagaList](e.get("/sagas?shard=s2"))
	close(done)
	read[admin.SagaList](<-first)
	read[admin.SagaList](e.get("/sagas?shard=s2&state=completed"))
}

func TestManyTransfersOfOneID(t *testing.T) {
	e := newEnv(t)
	put := func(i int) {
		add := ledger.StepSight{CreatedAt: begun}
		add.Transfer = ledger.Transfer{
			Identity: ledger.Identity{Initiator: ledger.UserID(fmt.Sprintf("u%02d", i)), TxID: "opening"}, Kind: ledger.KindAdd, Amount: 1, Currency: "EUR",
		}
		add.Slot, add.Step, add.Version = placement.SlotOf(add.Initiator), ledger.StepStart, 1
		b := e.world.shards[e.world.view.Map.OwnerOf(add.Initiator).Shard]
		b.steps = append(b.steps, add)
	}
	for i := range 20 {
		put(i)
	}
	if list := read[admin.TransferList](e.get("/transfers/opening")); len(list.Transfers) != 20 || list.More {
		t.Errorf("%d, more: %v", len(list.Transfers), list.More)
	}
	put(20)
	if list := read[admin.TransferList](e.get("/transfers/opening")); len(list.Transfers) != 20 || !list.More || list.Transfers[19].Initiator != "u19" {
		t.Errorf("%d, more: %v", len(list.Transfers), list.More)
	}
}

func TestTransfers(t *testing.T) {
	e := newEnv(t)
	e.world.saga("t1", begun, ledger.SagaCompleted)
	e.world.saga("t2", time.Now(), ledger.SagaPending)
	add := ledger.StepSight{Slot: placement.SlotOf("bob"), CreatedAt: begun}
	add.Transfer = ledger.Transfer{Identity: ledger.Identity{Initiator: "bob", TxID: "t1"}, Kind: ledger.KindAdd, Amount: 100, Currency: "EUR"}
	add.Step, add.Balance, add.Version, add.Description = ledger.StepStart, 100, 1, "salary"
	refused := add
	refused.TxID, refused.Kind, refused.Outcome = "t4", ledger.KindWithdraw, ledger.Outcome{Reason: ledger.InsufficientFunds}
	e.world.shards["s2"].steps = append(e.world.shards["s2"].steps, add, refused)

	list := read[admin.TransferList](e.get("/transfers/t1"))
	if len(list.Transfers) != 2 || list.Transfers[0].Initiator != "alice" || list.Transfers[0].Status != "COMPLETED" || list.Transfers[1].Kind != "add" {
		t.Errorf("%+v", list)
	}
	if way := list.Transfers[0]; way.Home != "s1" || way.PayeeShard != "s2" || !way.Saga || way.Seconds != 0.003 || len(way.Steps) != 3 {
		t.Errorf("%+v", way)
	}
	if one := read[admin.Transfer](e.get("/users/bob/transfers/t1")); one.Saga || one.Home != "s2" || one.Description != "salary" || len(one.Steps) != 1 || one.Steps[0].Change != 100 {
		t.Errorf("%+v", one)
	}
	if one := read[admin.Transfer](e.get("/users/alice/transfers/t2")); one.Status != "PENDING" || one.EndedAt != nil {
		t.Errorf("%+v", one)
	}
	if one := read[admin.Transfer](e.get("/users/bob/transfers/t4")); one.Status != "REFUSED" || one.Reason != "insufficient_funds" || one.Steps[0].Balance != nil {
		t.Errorf("%+v", one)
	}
	e.get("/sagas/bob/t1").refused(404, "saga_not_found")
	if got := e.get("/transfers/t9").refused(404, "transfer_not_found"); !slices.Contains(got.Similar, "t1") {
		t.Errorf("similar: %v", got.Similar)
	}
	if got := e.get("/users/alcie/transfers/t1").refused(404, "transfer_not_found"); !strings.Contains(got.Message, "no such user") || !slices.Contains(got.Similar, "alice") {
		t.Errorf("of nobody: %+v", got)
	}

	// A copy that was left behind is told as one, and what is on a shard that is down is missing, not gone.
	e.world.shards["s2"].steps = append(e.world.shards["s2"].steps, e.world.shards["s1"].steps[0])
	if way := read[admin.Transfer](e.get("/users/alice/transfers/t1")); len(way.Steps) != 4 || !way.Steps[1].Copy || way.Steps[0].Copy {
		t.Errorf("%+v", way.Steps)
	}
	owned, left := e.world.saga("t5", begun, ledger.SagaCompleted), e.world.saga("t6", begun, ledger.SagaPending)
	left.Identity, owned.Identity = ledger.Identity{Initiator: "bob", TxID: "t1"}, ledger.Identity{Initiator: "bob", TxID: "t1"}
	e.world.shards["s1"].sagas = append(e.world.shards["s1"].sagas, left)
	e.world.shards["s2"].sagas = append(e.world.shards["s2"].sagas, owned)
	if s := read[admin.Saga](e.get("/sagas/bob/t1")); s.State != "COMPLETED" || s.Home != "s2" {
		t.Errorf("what was left behind is taken for the saga: %+v", s)
	}
	e.world.shards["s1"].setDown(ledger.Unavailable("it does not answer", nil))
	if got := e.get("/users/alice/transfers/t9").refused(503, "unavailable"); !strings.Contains(got.Message, "shard s1 does not") {
		t.Errorf("%+v", got)
	}
	e.get("/transfers/t9").refused(503, "unavailable")
}

func TestUsers(t *testing.T) {
	e := newEnv(t)
	u := read[admin.User](e.get("/users/alice"))
	if u.Shard != "s1" || u.Accounts[0].Balance != 75 || u.Moving != nil || len(u.Entries) != 1 || len(u.Places) != 1 {
		t.Errorf("%+v", u)
	}
	e.world.change(func(v *admin.View) {
		v.Moves = []placement.Move{{ID: "m1", Source: "s1", Target: "s2", Slots: placement.NewSlotSet(placement.SlotOf("alice")), Phase: placement.PhaseCopy, CreatedAt: begun}}
	})
	copied := e.world.shards["s1"].users["alice"]
	copied.Name = "half of Alice"
	e.world.shards["s2"].users["alice"] = copied
	e.world.shards["s2"].slots = func(slot ledger.Slot) string { return "incoming" }
	if u := read[admin.User](e.get("/users/alice")); u.Name != "Alice" || u.Moving.To != "s2" || len(u.Places) != 2 || !u.Places[1].Present {
		t.Errorf("while she moves: %+v", u)
	}
	if got := e.get("/users/alicia").refused(404, "user_not_found"); !slices.Contains(got.Similar, "alice") {
		t.Errorf("similar: %v", got.Similar)
	}
	e.get("/users/@alice").refused(400, "malformed_request")
	e.world.shards["s1"].setDown(ledger.Unavailable("it does not answer", nil))
	e.get("/users/nobody").refused(503, "unavailable")
}

func TestSimilar(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		text       string
		candidates []string
		want       string
	}{
		{"alcie", []string{"alice", "bob", "alina"}, "alice"},
		{"Alice", []string{"alice"}, "alice"},
		{"user-12", []string{"user-1", "user-123", "user-999"}, "user-1,user-123"},
		{"x", []string{"something else"}, ""},
		{"a", []string{"a1", "a2", "a3", "a4", "a5", "a6", "a1"}, "a1,a2,a3,a4,a5"},
	} {
		if got := strings.Join(admin.Similar(test.text, test.candidates...), ","); got != test.want {
			t.Errorf("like %q: %s, want %s", test.text, got, test.want)
		}
	}
}

func TestWhoMayAsk(t *testing.T) {
	t.Parallel()
	token := func() (string, error) { return "correct-horse-battery", nil }
	kinds := map[string]func(*admin.Config){
		"loopback":         func(*admin.Config) {},
		"open":             func(c *admin.Config) { c.Loopback = false },
		"token":            func(c *admin.Config) { c.Loopback, c.Token = false, token },
		"loopback, token":  func(c *admin.Config) { c.Token = token },
		"empty token":      func(c *admin.Config) { c.Token = func() (string, error) { return "", nil } },
		"unreadable token": func(c *admin.Config) { c.Token = func() (string, error) { return "", errors.New("no file") } },
	}
	const bearer = "Authorization"
	for _, test := range []struct {
		kind   string
		header []string
		status int
		code   string
	}{
		{"loopback", nil, 200, ""},
		{"loopback", []string{"Host", "localhost:8081"}, 200, ""},
		{"loopback", []string{"Host", "[::1]:8081"}, 200, ""},
		{"loopback", []string{"Host", "rebound.example:8081"}, 403, "foreign_host"},
		{"loopback", []string{"Host", "localhost.rebound.example"}, 403, "foreign_host"},
		{"loopback", []string{"Host", "127.0.0.1.rebound.example"}, 403, "foreign_host"},
		{"loopback", []string{"Sec-Fetch-Site", "cross-site"}, 403, "cross_site"},
		{"loopback", []string{"Sec-Fetch-Site", "same-site"}, 403, "cross_site"},
		{"loopback", []string{"Sec-Fetch-Site", "none"}, 200, ""},
		{"loopback", []string{"Origin", "null"}, 403, "cross_site"},
		{"loopback", []string{"Origin", "http://evil.example"}, 403, "cross_site"},
		{"loopback", []string{"Host", "127.0.0.1:1", "Origin", "http://127.0.0.1:2"}, 403, "cross_site"},
		{"loopback", []string{"Host", "127.0.0.1:1", "Origin", "http://127.0.0.1:1", "Sec-Fetch-Site", "same-origin"}, 200, ""},
		{"loopback", []string{"X-Forwarded-For", "10.1.2.3"}, 403, "token_needed"},
		{"loopback", []string{"Forwarded", "for=10.1.2.3"}, 403, "token_needed"},
		{"loopback", []string{"Via", "1.1 proxy"}, 403, "token_needed"},
		{"loopback", []string{"X-Forwarded-For", ""}, 403, "token_needed"},
		{"loopback, token", []string{bearer, "Bearer correct-horse-battery", "X-Forwarded-For", "10.1.2.3"}, 200, ""},
		{"open", nil, 403, "token_needed"},
		{"open", []string{"Host", "localhost"}, 403, "token_needed"},
		{"open", []string{bearer, "Bearer correct-horse-battery"}, 403, "token_needed"},
		{"token", nil, 401, "unauthenticated"},
		{"token", []string{bearer, "Bearer correct-horse-batter"}, 401, "unauthenticated"},
		{"token", []string{bearer, "Bearer correct-horse-battery2"}, 401, "unauthenticated"},
		{"token", []string{bearer, "Basic correct-horse-battery"}, 401, "unauthenticated"},
		{"token", []string{bearer, "Bearer "}, 401, "unauthenticated"},
		{"token", []string{bearer, "Bearer correct-horse-battery"}, 200, ""},
		{"token", []string{bearer, "bearer correct-horse-battery", "Host", "coordinator.saldo.svc"}, 200, ""},
		{"token", []string{bearer, "Bearer correct-horse-battery", "Origin", "http://evil.example"}, 403, "cross_site"},
		{"loopback, token", nil, 401, "unauthenticated"},
		{"empty token", []string{bearer, "Bearer x"}, 401, "unauthenticated"},
		{"empty token", []string{bearer, "Bearer "}, 401, "unauthenticated"},
		{"unreadable token", []string{bearer, "Bearer x"}, 500, "internal"},
	} {
		t.Run(fmt.Sprint(test.kind, test.header), func(t *testing.T) {
			e := newEnv(t, kinds[test.kind])
			for _, path := range []string{"/cluster", "/events", "/openapi.yaml", "/nothing"} {
				if test.status == 200 && path != "/cluster" {
					continue
				}
				got := e.get(path, test.header...)
				if test.status == 200 {
					read[admin.Cluster](got)
				} else {
					got.refused(test.status, test.code)
				}
				if got.header.Get("X-Content-Type-Options") != "nosniff" || got.header.Get("Cache-Control") != "no-store" || got.header.Get("Access-Control-Allow-Origin") != "" {
					t.Errorf("headers: %v", got.header)
				}
				if test.status == 401 && !strings.HasPrefix(got.header.Get("WWW-Authenticate"), "Bearer") {
					t.Errorf("headers: %v", got.header)
				}
			}
		})
	}
}

// What changes something cannot come from a form, whatever else a browser says or does not say.
func TestAFormChangesNothing(t *testing.T) {
	e := newEnv(t)
	e.world.saga("t1", begun, ledger.SagaPending)
	for _, kind := range []string{"", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonp"} {
		e.do("POST", admin.Prefix+"/sagas/alice/t1/retry", "{}", "Content-Type", kind).refused(415, "unsupported_media_type")
	}
	if got := e.do("OPTIONS", admin.Prefix+"/sagas/alice/t1/retry", "", "Origin", "http://evil.example", "Access-Control-Request-Method", "POST"); got.status != 403 {
		t.Errorf("a preflight is answered %d", got.status)
	}
	if len(e.world.retried) != 0 {
		t.Error("it was tried")
	}
	e.world.retry = func(s ledger.Saga) (ledger.Saga, error) { return s, nil }
	read[admin.SagaRetry](e.post("/sagas/alice/t1/retry", "{}", "Content-Type", "application/json; charset=utf-8"))
}

func TestUnexpected(t *testing.T) {
	e := newEnv(t)
	e.get("/nothing").refused(404, "not_found")
	e.do("PUT", admin.Prefix+"/cluster", "").refused(405, "method_not_allowed")
	if got := e.do("HEAD", admin.Prefix+"/cluster", ""); got.status != 200 || len(got.body) != 0 {
		t.Errorf("HEAD: %d %s", got.status, got.body)
	}
	if got := e.get("/openapi.yaml"); string(got.body) != string(admin.OpenAPI()) {
		t.Error("the document is another one")
	}
	e.world.shards["s1"].slots = func(ledger.Slot) string { panic("password=hunter2") }
	e.world.shards["s2"].slots = e.world.shards["s1"].slots
	if got := read[admin.AuditStatus](e.get("/audit")); got.State != admin.AuditNotRun {
		t.Errorf("%+v", got)
	}
	client := &admin.Client{URL: e.server.URL, HTTP: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
	if _, err := client.Transfers(t.Context(), "t1"); err == nil || !strings.Contains(err.Error(), "no user has a transfer t1") {
		t.Errorf("the client: %v", err)
	}
	var unreachable *admin.Unreachable
	if _, err := (&admin.Client{URL: "http://127.0.0.1:1"}).Cluster(t.Context()); !errors.As(err, &unreachable) {
		t.Errorf("nobody there: %v", err)
	}
}
