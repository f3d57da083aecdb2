package audit_test

import (
	"context"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/saldo-ledger/saldo/internal/audit"
	"github.com/saldo-ledger/saldo/internal/auditor"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/shard"
)

// partOf is a world of which an audit sees a part.
type partOf struct {
	*world
	part func(id ledger.ShardID) audit.Part
}

func (p partOf) Snapshot(ctx context.Context, id ledger.ShardID) (audit.Snapshot, error) {
	return p.SnapshotOf(ctx, id, p.part(id))
}

func (w *world) auditPart(part func(id ledger.ShardID) audit.Part) *audit.Report {
	w.t.Helper()
	options := audit.Options{Part: true, Chunk: 2, Patience: 30 * time.Millisecond, Pause: 20 * time.Millisecond}
	report, err := audit.Run(context.Background(), partOf{w, part}, options)
	if err != nil {
		w.t.Fatal(err)
	}
	return report
}

// sinceEver is a mark before everything, of each shard as it is when it is first asked for.
func (w *world) sinceEver() func(id ledger.ShardID) audit.Part {
	var (
		mu    sync.Mutex // guards marks
		marks = make(map[ledger.ShardID]*audit.Mark)
	)
	return func(id ledger.ShardID) audit.Part {
		mu.Lock()
		defer mu.Unlock()
		if marks[id] == nil {
			s, err := w.by[id].SnapshotOf(context.Background(), audit.Part{Since: new(audit.Mark)})
			if err != nil {
				return audit.Part{Since: new(audit.Mark)} // and the audit will be told the same
			}
			defer s.Close()
			mark := s.Mark()
			mark.Snapshot = "3:3:"
			marks[id] = &mark
		}
		mark := *marks[id]
		return audit.Part{Since: &mark}
	}
}

func everySlot(ledger.ShardID) audit.Part {
	var all placement.SlotSet
	for slot := range ledger.Slot(placement.Slots) {
		all = append(all, slot)
	}
	return audit.Part{Slots: all}
}

// foundInParts checks that what a whole audit finds is found by what is new and a sweep together, sums aside, and that neither
// finds anything else. What is found among what is new is swept only with SALDO_SIM_DEEP=1.
func foundInParts(t *testing.T, w *world, want expect) {
	t.Helper()
	left := maps.Clone(want)
	maps.DeleteFunc(left, func(name audit.Name, id string) bool { // sums, and rows that are in no slot of the shard
		return id == "USD" || id == "EUR" || name == audit.CheckRows && strings.HasPrefix(id, "slot ")
	})
	for _, part := range []struct {
		name string
		of   func(ledger.ShardID) audit.Part
	}{{"what is new", w.sinceEver()}, {"the sweep", everySlot}} {
		r := w.auditPart(part.of)
		for _, name := range r.Failed() {
			if _, ok := want[name]; !ok {
				t.Errorf("in %s %s fails too", part.name, name)
			}
		}
		maps.DeleteFunc(left, func(name audit.Name, id string) bool {
			return slices.ContainsFunc(r.Check(name).Violations, func(v audit.Violation) bool { return v.ID == id && v.Problem != "" })
		})
		if t.Failed() {
			t.Logf("%s:\n%s", part.name, table(r))
		}
		if len(left) == 0 && os.Getenv("SALDO_SIM_DEEP") == "" {
			return
		}
	}
	for name, id := range left {
		t.Errorf("in parts %s does not name %q", name, id)
	}
}

// The story in parts: all of it is judged, and clean.
func TestCleanParts(t *testing.T) {
	t.Parallel()
	w := newWorld(t, templates)
	for what, part := range map[string]func(ledger.ShardID) audit.Part{"what is new": w.sinceEver(), "the sweep": everySlot} {
		r := w.auditPart(part)
		if r.Verdict != audit.Clean {
			t.Errorf("%s:\n%s", what, table(r))
		}
		covered := make(map[audit.Name]int64)
		for _, c := range r.Checks {
			covered[c.Name] = c.Covered
		}
		want := map[audit.Name]int64{
			audit.CheckIdentity: 3, audit.CheckSlots: 4096, audit.CheckRows: 5 + 25, audit.CheckOperations: 25,
			audit.CheckAccounts: 10, audit.CheckOverdraft: 24, audit.CheckCredits: 4, audit.CheckEnds: 3,
		}
		for name, n := range want {
			if covered[name] != n {
				t.Errorf("%s: %s covered %d, want %d", what, name, covered[name], n)
			}
		}
	}
}

func newAuditor(books auditor.Books) *auditor.Auditor {
	return auditor.New(books, auditor.Config{
		Step: time.Minute, Audit: audit.Options{Patience: 30 * time.Millisecond, Pause: 10 * time.Millisecond},
	}, slog.New(slog.DiscardHandler))
}

func mustBeClean(t *testing.T, a *auditor.Auditor, atLeast int64) {
	t.Helper()
	if s := a.Status(); s.Verdict() != audit.Clean || s.Covered < atLeast {
		t.Errorf("the auditor, after %d steps: %+v", atLeast, s)
	}
}

// An auditor that is given too little time for what is written looks at a part of it, says so, and never has more to read than
// the time before.
func TestAuditorThatCannotKeepUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, templates)
	for behind, want := range map[time.Duration]bool{time.Nanosecond: true, time.Hour: false} {
		ctx, cancel := context.WithCancel(t.Context())
		var rounds []auditor.Status
		auditor.New(w, auditor.Config{
			Interval: 20 * time.Millisecond, Share: 0.9, Behind: behind, Audit: audit.Options{Pause: 10 * time.Millisecond},
			Ended: func(s auditor.Status) {
				if rounds = append(rounds, s); len(rounds) == 4 {
					cancel()
				}
			},
		}, slog.New(slog.DiscardHandler)).Run(ctx)
		cancel()
		for i, s := range rounds[1:] {
			told := slices.ContainsFunc(s.Gaps, func(gap string) bool { return strings.Contains(gap, "more is written than can be read") })
			if told != want || s.Verdict() == audit.Clean == want {
				t.Errorf("with %v, in round %d: %+v", behind, i+2, s)
			}
		}
	}
}

// hanging has shards that answer no auditor, as long as that is said.
type hanging struct {
	*world
	hangs atomic.Bool
}

func (h *hanging) SnapshotOf(ctx context.Context, id ledger.ShardID, part audit.Part) (audit.Marked, error) {
	if h.hangs.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return h.world.SnapshotOf(ctx, id, part)
}

// What a round that was given up should have read would be more, and too much, the next time.
func TestAuditorGivesARoundUp(t *testing.T) {
	t.Parallel()
	h := &hanging{world: newWorld(t, templates)}
	a := auditor.New(h, auditor.Config{Limit: 6 * time.Second, Audit: audit.Options{Pause: 10 * time.Millisecond}},
		slog.New(slog.DiscardHandler))
	round := func(gap string) {
		t.Helper()
		a.Round(t.Context())
		s := a.Status()
		if gap == "" && s.Verdict() == audit.Clean {
			return
		}
		if gap == "" || !slices.ContainsFunc(s.Gaps, func(told string) bool { return strings.Contains(told, gap) }) {
			t.Errorf("want %q: %+v", gap, s)
		}
	}
	round("only remembers")
	round("")
	h.hangs.Store(true)
	round("given up")
	h.hangs.Store(false)
	round("only remembers")
	round("left to the sweep")
	round("")
}

// What happens between two rounds is judged in the second, once; and nothing twice.
func TestAuditorReadsWhatIsNew(t *testing.T) {
	t.Parallel()
	w := newWorld(t, empty)
	a := newAuditor(w)
	a.Round(t.Context())
	a.Round(t.Context())
	idle := a.Status()
	w.must(story...)
	a.Round(t.Context())
	told := a.Status()
	a.Round(t.Context())
	after := a.Status()
	standing := int64(3 + 4096)
	if got := told.Covered - idle.Covered - 2*standing; got < 25+24 {
		t.Errorf("%d rows were judged of the story", got)
	}
	if sweep := after.Covered - told.Covered - 2*standing; sweep > 25 {
		t.Errorf("%d rows were judged again at once", sweep)
	}
	mustBeClean(t, a, 25)
}

// A row that was written wrongly is found by the next round; one that was changed by hand long after by the sweep. Both are
// forgotten when they have been mended and the sweep has gone round.
func TestAuditorFindsAndForgets(t *testing.T) {
	t.Parallel()
	w := newWorld(t, empty)
	a := newAuditor(w)
	a.Round(t.Context())
	w.must(story...)
	w.sql("s1", `update entries set counterparty = 'mallory' where tx_id = 'completed' and user_id = $1`, a1)
	a.Round(t.Context())
	found := a.Status().Findings
	if len(found) != 2 || found[0].Check != audit.CheckOperations || found[0].ID != string(a1)+"/completed start" || found[0].Shard != "s1" {
		t.Fatalf("found %+v", found)
	}
	w.sql("s1", `update entries set counterparty = $2 where tx_id = 'completed' and user_id = $1`, a1, b1)
	w.sql("s2", `update accounts set balance = balance + 1 where user_id = $1 and currency = 'USD'`, b2)
	seen := func() bool {
		return slices.ContainsFunc(a.Status().Findings, func(f auditor.Finding) bool { return f.ID == string(b2)+" USD" })
	}
	sweepUntil(t, a, seen)
	w.sql("s2", `update accounts set balance = balance - 1 where user_id = $1 and currency = 'USD'`, b2)
	sweepUntil(t, a, func() bool { return len(a.Status().Findings) == 0 })
	mustBeClean(t, a, 25)
}

func sweepUntil(t *testing.T, a *auditor.Auditor, so func() bool) {
	t.Helper()
	for range 60 {
		if so() {
			return
		}
		a.Round(t.Context())
	}
	t.Fatalf("it did not come: %+v", a.Status())
}

// A shard that is away makes a round incomplete, and what it has committed meanwhile is read when it is back.
func TestAuditorGoesOnFromItsMark(t *testing.T) {
	t.Parallel()
	w := newWorld(t, empty)
	a := newAuditor(w)
	a.Round(t.Context())
	dsn := w.dsn["s1"]
	w.must(story...)
	w.sql("s1", `delete from sagas where tx_id = 'refunded'`)
	w.open("s1", "postgres://saldo@127.0.0.1:1/none")
	a.Round(t.Context())
	if s := a.Status(); s.Verdict() != audit.Incomplete || !strings.Contains(strings.Join(s.Gaps, " "), "s1") {
		t.Errorf("while s1 is away: %+v", s)
	}
	w.open("s1", dsn)
	a.Round(t.Context())
	if found := a.Status().Findings; !slices.ContainsFunc(found, func(f auditor.Finding) bool { return f.Check == audit.CheckSagas }) {
		t.Errorf("found %+v", found)
	}
}

// A mark of another server means nothing: the round says so, and goes on from now.
func TestAuditorLosesAMark(t *testing.T) {
	t.Parallel()
	w := newWorld(t, empty)
	lost := &forgetful{world: w}
	a := newAuditor(lost)
	a.Round(t.Context())
	lost.forget = true
	w.must(story...)
	a.Round(t.Context())
	if s := a.Status(); s.Verdict() != audit.Incomplete || !strings.Contains(strings.Join(s.Gaps, " "), "left to the sweep") {
		t.Errorf("when the marks are lost: %+v", s)
	}
	lost.forget = false
	a.Round(t.Context())
	mustBeClean(t, a, 2)
}

// The payee's entry of a local transfer is looked for once: that it is not there stays known. And that one shard's books are
// wrong does not make a round complete in which another one was away.
func TestAuditorDoesNotForgetTooSoon(t *testing.T) {
	t.Parallel()
	w := newWorld(t, empty)
	a := newAuditor(w)
	a.Round(t.Context())
	w.must(story...)
	w.sql("s1", `delete from entries where user_id = $1 and tx_id = 'local'`, a2)
	w.sql("s1", `update accounts set balance = balance - 200, version = version - 1 where user_id = $1 and currency = 'USD'`, a2)
	a.Round(t.Context())
	lost := func() bool {
		return slices.ContainsFunc(a.Status().Findings, func(f auditor.Finding) bool { return f.ID == string(a1)+"/local start" })
	}
	if !lost() {
		t.Fatalf("found %+v", a.Status().Findings)
	}
	sweepUntil(t, a, func() bool { return a.Status().Sweeps >= 3 })
	if !lost() {
		t.Errorf("forgotten: %+v", a.Status())
	}
	w.open("s2", "postgres://saldo@127.0.0.1:1/none")
	sweeps := a.Status().Sweeps
	for range 6 { // more than it takes to go round
		a.Round(t.Context())
	}
	if now := a.Status().Sweeps; now != sweeps {
		t.Errorf("%d sweeps went round while s2 was away", now-sweeps)
	}
}

// What could not be joined while a shard was away is joined when it is back.
func TestAuditorJoinsLater(t *testing.T) {
	t.Parallel()
	w := newWorld(t, empty)
	a := newAuditor(w)
	a.Round(t.Context())
	w.must(story...)
	w.sql("s2", `with o as (delete from operations where tx_id = 'completed') delete from entries where tx_id = 'completed'`)
	dsn := w.dsn["s2"]
	w.open("s2", "postgres://saldo@127.0.0.1:1/none")
	a.Round(t.Context())
	w.open("s2", dsn)
	a.Round(t.Context())
	if found := a.Status().Findings; !slices.ContainsFunc(found, func(f auditor.Finding) bool { return f.Check == audit.CheckEnds }) {
		t.Errorf("found %+v", found)
	}
}

// After its first round nothing has been judged, whatever the rounds before it were.
func TestAuditorBegins(t *testing.T) {
	t.Parallel()
	a := newAuditor(newWorld(t, templates))
	a.Round(t.Context())
	if s := a.Status(); s.Verdict() != audit.Incomplete {
		t.Errorf("after the first round: %+v", s)
	}
	a.Round(t.Context())
	mustBeClean(t, a, 2)
}

// What is new is found by its transactions, however much there is: no statement reads an index from end to end.
func TestPartIsReadByItsTransactions(t *testing.T) {
	t.Parallel()
	w := newWorld(t, templates)
	w.sql("s1", `insert into entries (slot, user_id, currency, version, amount, balance, tx_id, step, kind, counterparty, created_at)
		select slot, user_id, 'XTS', n, 1, n, 'bulk' || n, 1, 1, '', now() from accounts, generate_series(1, 20000) n where user_id = $1 and currency = 'USD'`, a1)
	w.sql("s1", `analyze entries`)
	w.sql("s1", `vacuum entries`)
	mark := func() *audit.Mark {
		s, err := w.by["s1"].SnapshotOf(t.Context(), audit.Part{Since: new(audit.Mark)})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		mark := s.Mark()
		return &mark
	}()
	w.must(part{op: add(a1, "afterwards", 1)})
	read := func() (blocks int64) {
		err := w.superuser("s1").QueryRow(t.Context(), `select pg_stat_clear_snapshot() is null, coalesce(sum(idx_tup_fetch), 0)::bigint + coalesce(sum(seq_tup_read), 0)::bigint
			from pg_stat_user_tables where relname = 'entries'`).Scan(new(bool), &blocks)
		if err != nil {
			t.Fatal(err)
		}
		return blocks
	}
	before := read()
	s, err := w.by["s1"].SnapshotOf(t.Context(), audit.Part{Since: mark})
	if err != nil {
		t.Fatal(err)
	}
	report := func(check audit.Name, id, problem string) {
		if !strings.Contains(id, "XTS") {
			t.Errorf("%s: %s: %s", check, id, problem)
		}
	}
	if totals, err := s.Totals(t.Context()); err != nil || totals.Entries != 1 || totals.Operations != 1 {
		t.Errorf("%+v, %v", totals, err)
	}
	for _, check := range []func(context.Context, audit.Reporter) error{s.Operations, s.Accounts, s.Sagas, s.Rows} {
		if err := check(t.Context(), report); err != nil {
			t.Error(err)
		}
	}
	s.Close()
	w.sql("s1", `select pg_stat_force_next_flush()`)
	time.Sleep(1200 * time.Millisecond) // until the session has told the server's statistics
	if rows := read() - before; rows > 20_000*3 {
		t.Errorf("%d rows of entries were looked at for one new one among 20,000", rows)
	}
}

// forgetful makes marks those of another server.
type forgetful struct {
	*world
	forget bool
}

func (f *forgetful) SnapshotOf(ctx context.Context, id ledger.ShardID, part audit.Part) (audit.Marked, error) {
	if f.forget && part.Since != nil && part.Since.Snapshot != "" {
		mark := *part.Since
		mark.System++
		part.Since = &mark
	}
	return f.world.SnapshotOf(ctx, id, part)
}

// Rows of a slot that has come since the mark are left to the sweep, which takes them next.
func TestAuditorLeavesOutWhatHasCome(t *testing.T) {
	t.Parallel()
	w := newWorld(t, templates)
	slot := placement.SlotOf(a2)
	before := w.sinceEver()("s1").Since
	without := *before
	without.Slots = maps.Clone(before.Slots)
	delete(without.Slots, slot)
	w.sql("s1", `delete from entries where user_id = $1 and tx_id = 'local'`, a2)
	for _, c := range []struct {
		since *audit.Mark
		found bool
	}{{before, true}, {&without, false}} {
		s, err := w.by["s1"].SnapshotOf(t.Context(), audit.Part{Since: c.since})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		var lines int
		err = s.LineSums(t.Context(), func(_, payee ledger.Slot, _ uint64, _ bool) {
			if payee == slot {
				lines++
			}
		})
		if err != nil || (lines > 0) != c.found {
			t.Errorf("%d lines of the slot, %v", lines, err)
		}
	}
}

var _ auditor.Books = (*world)(nil)
var _ audit.Marked = (*shard.Snapshot)(nil)
