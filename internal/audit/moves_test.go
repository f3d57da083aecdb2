package audit_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/saldo-ledger/saldo/internal/audit"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/pgtest"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// journey moves slots in a world as a mover would, one commit at a time, in plain SQL.
type journey struct {
	*world
	placement.Move
	epoch ledger.Epoch // of the slots before it
}

func (w *world) journey(id placement.MoveID, source, target ledger.ShardID, slots ...ledger.Slot) *journey {
	set := placement.NewSlotSet(slots...)
	j := &journey{w, placement.Move{ID: id, Source: source, Target: target, Slots: set}, w.m.Owner(set[0]).Epoch}
	j.phase(placement.PhasePlanned)
	return j
}

// phase writes the move's record.
func (j *journey) phase(phase placement.Phase) {
	j.Phase = phase
	moves := slices.DeleteFunc(slices.Clone(j.view.Moves), func(move placement.Move) bool { return move.ID == j.ID })
	j.view.Moves = append(moves, j.Move)
}

func (j *journey) numbers() (slots []int16) {
	for _, slot := range j.Slots {
		slots = append(slots, int16(slot))
	}
	return slots
}

func (j *journey) at(id ledger.ShardID, statement string, args ...any) {
	j.t.Helper()
	j.sql(id, statement, append([]any{j.numbers()}, args...)...)
}

func (j *journey) markSource() {
	j.phase(placement.PhaseMark)
	j.at(j.Source, `update slots set move_id = $2, token = 1 where slot = any($1)`, j.ID)
}

func (j *journey) markTarget() {
	j.at(j.Target, `insert into slots (slot, state, epoch, move_id, token, clean) select unnest($1::smallint[]), 'incoming', $3, $2, 1, false
		on conflict (slot) do update set state = 'incoming', epoch = $3, move_id = $2, token = 1, clean = false`, j.ID, j.epoch)
	j.phase(placement.PhaseCopy)
}

var movedTables = []string{"users", "accounts", "operations", "entries", "sagas"}

// copy makes the target's rows of some tables those of the source.
func (j *journey) copy(tables ...string) {
	j.t.Helper()
	for _, table := range tables {
		var rows string
		err := j.superuser(j.Source).QueryRow(context.Background(),
			`select coalesce(jsonb_agg(t), '[]')::text from `+table+` t where slot = any($1)`, j.numbers()).Scan(&rows)
		if err != nil {
			j.t.Fatal(err)
		}
		j.at(j.Target, `delete from `+table+` where slot = any($1)`)
		j.sql(j.Target, `insert into `+table+` select * from jsonb_populate_recordset(null::`+table+`, $1::text::jsonb)`, rows)
	}
}

func (j *journey) fence() {
	j.at(j.Source, `update slots set state = 'fenced', fenced_at = clock_timestamp() where slot = any($1)`)
	j.phase(placement.PhaseFence)
}

func (j *journey) unfence() {
	j.at(j.Source, `update slots set state = 'owned', fenced_at = null where slot = any($1)`)
	j.phase(placement.PhaseCatchup)
}

// give makes a shard own the slots in the map, at the next epoch.
func (j *journey) give(to ledger.ShardID, phase placement.Phase) {
	owners := make(map[ledger.Slot]placement.Owner)
	for slot := range ledger.Slot(placement.Slots) {
		owners[slot] = j.m.Owner(slot)
	}
	for _, slot := range j.Slots {
		owners[slot] = placement.Owner{Shard: to, Epoch: j.epoch + 1}
	}
	m, err := placement.NewMap(j.m.Revision()+1, owners)
	if err != nil {
		j.t.Fatal(err)
	}
	j.m, j.view.Map = m, m
	j.phase(phase)
}

func (j *journey) switchOver() { j.give(j.Target, placement.PhaseSwitched) }
func (j *journey) abort()      { j.give(j.Source, placement.PhaseAborting) }

// book writes what the slots' rows at a shard sum to against @moved.
const book = `
with booked as (
    insert into moved (move_id, other, currency, amount)
    select $2, $4, currency, $5 * sum(amount) from (
        select currency, amount from entries where slot = any($1)
        union all
        select currency, system_amount from operations where slot = any($1)
    ) sides
    group by currency having sum(amount) <> 0
)`

func (j *journey) activate() {
	j.at(j.Target, book+`update slots set state = 'owned', epoch = $3, move_id = '', token = 0, clean = true where slot = any($1)`,
		j.ID, j.epoch+1, j.Source, -1)
}

func (j *journey) tombstone() {
	j.at(j.Source, book+`update slots set state = 'moved', epoch = $3, moved_to = $4, clean = false, fenced_at = null where slot = any($1)`,
		j.ID, j.epoch+1, j.Target, 1)
	j.phase(placement.PhaseClean)
}

func (j *journey) restore() {
	j.at(j.Source, `update slots set state = 'owned', epoch = $2, move_id = '', token = 0, fenced_at = null where slot = any($1)`, j.epoch+1)
}

func (j *journey) discard() {
	j.at(j.Target, `update slots set state = 'moved', epoch = $2, moved_to = $3, clean = false where slot = any($1)`, j.epoch+1, j.Source)
}

func (j *journey) clean(id ledger.ShardID) {
	for _, table := range movedTables {
		j.at(id, `delete from `+table+` where slot = any($1)`)
	}
	j.at(id, `update slots set clean = true, move_id = '', token = 0 where slot = any($1)`)
}

// whole takes the slots where they go, to the last tombstone.
func (j *journey) whole() *journey {
	j.markSource()
	j.markTarget()
	j.fence()
	j.copy(movedTables...)
	j.switchOver()
	j.activate()
	j.tombstone()
	return j
}

// commit is one commit of a move, and what an audit says if nothing follows it: nothing, or which shard keeps it waiting.
type commit struct {
	name  string
	do    func()
	stuck []ledger.ShardID
}

func (j *journey) commits(aborted bool) []commit {
	add := func(tx string) { j.must(part{op: add(a2, tx, 7)}) }
	commits := []commit{
		{"planned", func() {}, nil},
		{"marked at the source", j.markSource, nil},
		{"marked", j.markTarget, nil},
		{"half copied", func() { j.copy("sagas", "entries") }, nil},
		{"copied", func() { j.copy(movedTables...) }, nil},
		{"grown", func() { add("copied") }, nil},
		{"fenced", j.fence, []ledger.ShardID{j.Source}},
		{"fence lifted", j.unfence, nil},
		{"grown again", func() { add("unfenced") }, nil},
		{"fenced again", j.fence, []ledger.ShardID{j.Source}},
		{"copied to the end", func() { j.copy(movedTables...) }, []ledger.ShardID{j.Source}},
	}
	if aborted {
		return append(commits, []commit{
			{"aborted", j.abort, []ledger.ShardID{j.Source}},
			{"restored", j.restore, nil},
			{"grown on", func() { add("restored") }, nil},
			{"discarded", j.discard, nil},
			{"cleaned", func() { j.clean(j.Target) }, nil},
			{"ended", func() { j.phase(placement.PhaseAborted) }, nil},
		}...)
	}
	return append(commits, []commit{
		{"switched", j.switchOver, []ledger.ShardID{j.Source, j.Target}},
		{"activated", j.activate, []ledger.ShardID{j.Source}},
		{"tombstoned", j.tombstone, nil},
		{"grown on", func() { add("moved") }, nil},
		{"cleaned", func() { j.clean(j.Source) }, nil},
		{"ended", func() { j.phase(placement.PhaseDone) }, nil},
	}...)
}

// After each commit of a move the books are as they should be. Where the shards wait for the next commit the audit does too,
// and says so if it does not come.
func TestEachCommitOfAMove(t *testing.T) {
	t.Parallel()
	for _, aborted := range []bool{false, true} {
		t.Run(map[bool]string{false: "to the end", true: "aborted"}[aborted], func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, templates)
			j := w.journey("m1", "s1", "s2", placement.SlotOf(a2), placement.SlotOf(a2)+1)
			commits := j.commits(aborted)
			for i, c := range commits {
				if i > 0 && len(commits[i-1].stuck) == 0 {
					c.do()
				}
				r := w.audit(audit.Options{Chunk: 2})
				var stuck []ledger.ShardID
				for _, v := range r.Check(audit.CheckMoves).Violations {
					if v.ID != "move m1" || !strings.HasPrefix(v.Problem, fmt.Sprintf("slots %s are ", j.Slots)) {
						t.Errorf("%s: %s", c.name, v)
					}
					stuck = append(stuck, v.Shard)
				}
				if failed := r.Failed(); !slices.Equal(stuck, c.stuck) || len(failed) > 0 && !slices.Equal(failed, []audit.Name{audit.CheckMoves}) {
					t.Errorf("%s: stuck at %v, want %v:\n%s", c.name, stuck, c.stuck, table(r))
				}
				for _, check := range r.Checks {
					if len(check.Gaps) > 0 && c.name != "activated" { // two shards answer: what can be judged is
						t.Errorf("%s: %s: %v", c.name, check.Name, check.Gaps)
					}
				}
				if len(c.stuck) == 0 {
					continue
				}
				// The mover goes on while the audit waits.
				views, next := 0, commits[i+1]
				w.before = func(id ledger.ShardID) {
					if id == "" {
						if views++; views == 3 {
							next.do()
						}
					}
				}
				if len(next.stuck) == 0 {
					r = w.audit(audit.Options{Patience: time.Minute})
					if views < 3 || r.Verdict != audit.Clean {
						t.Errorf("%s, then %s, after %d views:\n%s", c.name, next.name, views, table(r))
					}
				} else {
					next.do()
				}
				w.before = nil
			}
			if t.Failed() || testing.Verbose() {
				t.Logf("\n%s", table(w.audit(audit.Options{})))
			}
		})
	}
}

// What becomes of money that has moved: all of the story's, in moves there and back, and on.
func TestMovedStory(t *testing.T) {
	t.Parallel()
	w := newWorld(t, templates)
	slot := placement.SlotOf
	for i, step := range []struct {
		source, target ledger.ShardID
		slot           ledger.Slot
		then           []part
	}{
		// a1's local transfer to a2 parts, then a1 follows, with sagas that have ended
		{"s1", "s2", slot(a2), []part{{op: add(a2, "here", 5)}, {op: debit(a2, "there", a1, 50)}}},
		{"s1", "s3", slot(a1), []part{{op: credit(debit(a2, "there", a1, 50))}, {op: debit(a2, "there", a1, 50), complete: true}}},
		// c1's debit for a2 is credited where a2 is now; with b1 moves a saga that is pending
		{"s2", "s3", slot(b1), []part{{op: credit(debit(c1, "begun", a2, 10))}, {op: debit(b1, "credited", c1, 20), complete: true}, {op: pay(b1, "met", c1, 1)}}},
		{"s2", "s1", slot(a2), []part{{op: start(ledger.KindWithdraw, a2, "back", "", 15)}}},
		{"s3", "s1", slot(a1), []part{{op: pay(a1, "local-again", a2, 3)}}},
	} {
		j := w.journey(placement.MoveID(fmt.Sprint("m", i)), step.source, step.target, step.slot)
		j.whole()
		if i < 2 { // to s1 they come back
			j.end()
		}
		w.must(step.then...)
		if r := w.audit(audit.Options{Chunk: 3, Progress: nothingTwice(t)}); r.Verdict != audit.Clean {
			t.Errorf("after %d moves:\n%s", i+1, table(r))
		}
	}
	r := w.audit(audit.Options{})
	if r.Totals[1].Moved.Sign() != 0 || r.Shards[2].Totals[1].Moved.Int64() != 1 || !strings.Contains(table(r), "@moved") {
		t.Errorf("\n%s", table(r))
	}
	t.Logf("\n%s", table(r))
}

// nothingTwice fails a test if anything has to be read again.
func nothingTwice(t *testing.T) func(string) {
	return func(text string) {
		if strings.HasSuffix(text, "again") {
			t.Error(text)
		}
	}
}

// A shard is drained, with what is left of parted transfers, and removed: what the others have booked against it stays, and
// sums to zero.
func TestRemovedShard(t *testing.T) {
	t.Parallel()
	w := newWorld(t, templates)
	c2 := userOn("s3", "c2")
	w.must(part{user: c2}, part{op: pay(c1, "local", c2, 77)})
	w.journey("m1", "s3", "s1", placement.SlotOf(c1)).whole().end()
	w.journey("m2", "s3", "s2", slotsOf(w.m, "s3")...).whole().end()
	w.journey("m3", "s1", "s2", placement.SlotOf(c1)).whole().end() // c1 meets c2
	if r := w.audit(audit.Options{}); r.Verdict != audit.Clean {
		t.Fatalf("drained:\n%s", table(r))
	}
	w.view.Shards = []ledger.ShardID{"s1", "s2"}
	delete(w.by, "s3")
	if r := w.audit(audit.Options{}); r.Verdict != audit.Clean || len(r.Shards) != 2 || r.Totals[1].Moved.Sign() != 0 {
		t.Fatalf("removed:\n%s", table(r))
	}
	w.sql("s1", `update moved set amount = amount + 1 where move_id = 'm1'`)
	r := w.audit(audit.Options{})
	if got := violations(r); !maps.Equal(got, map[audit.Name]string{audit.CheckBooks: "USD", audit.CheckMoves: "USD"}) {
		t.Errorf("%v\n%s", got, table(r))
	}
}

func (j *journey) end() {
	j.clean(j.Source)
	j.phase(placement.PhaseDone)
}

// violations are the first of each check.
func violations(r *audit.Report) map[audit.Name]string {
	found := make(map[audit.Name]string)
	for _, name := range r.Failed() {
		found[name] = r.Check(name).Violations[0].ID
	}
	return found
}

// Things that go wrong in a move are found, by the checks that they break and no others, under their ids. a2, to whom a1
// paid on s1, has moved to s2; what the source has is a copy.
func TestEachCorruptionOfAMoveIsFound(t *testing.T) {
	t.Parallel()
	slot := placement.SlotOf(a2)
	shared := newWorld(t, templates)
	slotName, usd := fmt.Sprint("slot ", slot), string(a2)+" USD"
	for _, c := range []struct {
		name  string
		where ledger.ShardID
		sql   string
		want  expect
	}{
		{"the payee's entry was not copied", "s2", `delete from entries where user_id = $1 and tx_id = 'local'`,
			expect{audit.CheckOperations: string(a1) + "/local start", audit.CheckAccounts: usd, audit.CheckBooks: "USD"}},
		{"an entry was not copied", "s2", `delete from entries where user_id = $1 and tx_id = 'open'`,
			expect{audit.CheckOperations: string(a2) + "/open start", audit.CheckAccounts: usd + " 2", audit.CheckBooks: "USD"}},
		{"an operation was not copied", "s2", `delete from operations where initiator = $1 and tx_id = 'open'`,
			expect{audit.CheckOperations: string(a2) + "/open start", audit.CheckBooks: "USD"}},
		{"an account was not copied", "s2", `delete from accounts where user_id = $1 and currency = 'USD'`, expect{audit.CheckAccounts: usd}},
		{"the payee's entry was lost, and all agree", "s2", `with e as (delete from entries where user_id = $1 and tx_id = 'local'),
			m as (update moved set amount = amount + 200)
			update accounts set balance = balance - 200, version = 1 where user_id = $1 and currency = 'USD'`,
			expect{audit.CheckOperations: string(a1) + "/local start", audit.CheckMoves: "move m1"}},
		{"the payee's entry is of another transfer", "s2", `update entries set tx_id = 'loca' where user_id = $1 and tx_id = 'local'`,
			expect{audit.CheckOperations: string(a1) + "/loca start"}},
		{"the payee's entry is there twice", "s2", `with m as (update moved set amount = amount - 200),
			a as (update accounts set balance = balance + 200, version = 3 where user_id = $1 and currency = 'USD')
			insert into entries (slot, user_id, currency, version, amount, balance, tx_id, step, kind, counterparty, created_at)
			select slot, user_id, currency, 3, amount, balance + amount, tx_id, step, kind, counterparty, now() from entries where tx_id = 'local' and user_id = $1`,
			expect{audit.CheckOperations: string(a1) + "/local start", audit.CheckMoves: "move m1"}},
		{"the payer's operation is gone", "s1", `delete from operations where initiator <> $1 and tx_id = 'local'`,
			expect{audit.CheckOperations: string(a1) + "/local start"}},
		{"a gap in the numbers", "s2", `with e as (update entries set version = 9 where user_id = $1 and tx_id = 'local')
			update accounts set version = 9 where user_id = $1 and currency = 'USD'`,
			expect{audit.CheckAccounts: usd + " 9"}},
		{"owned by both", "s1", `update slots set state = 'owned', epoch = 1, move_id = '', clean = true where slot = (select slot from users where id = $1)`,
			expect{audit.CheckSlots: slotName, audit.CheckBooks: "USD"}},
		{"owned by both, under the move", "s1", `update slots set state = 'owned', epoch = 1 where slot = (select slot from users where id = $1)`,
			expect{audit.CheckMoves: "move m1", audit.CheckBooks: "USD"}},
		{"fenced by both, without a move", "s1", `update slots set state = 'fenced', move_id = '' where slot = (select slot from users where id = $1)`,
			expect{audit.CheckSlots: slotName, audit.CheckBooks: "USD"}},
		{"a wrong amount was booked by the target", "s2", `update moved set amount = amount + 1 where $1 <> ''`,
			expect{audit.CheckBooks: "USD", audit.CheckMoves: "move m1"}},
		{"nothing was booked by the source", "s1", `delete from moved where $1 <> ''`,
			expect{audit.CheckBooks: "USD", audit.CheckMoves: "move m1"}},
		{"booked in another currency", "s2", `update moved set currency = 'EUR' where $1 <> ''`,
			expect{audit.CheckBooks: "EUR", audit.CheckMoves: "move m1"}},
		{"booked for another move", "s2", `update moved set move_id = 'm2' where $1 <> ''`, expect{audit.CheckMoves: "move m1"}},
		{"called clean, and is not", "s1", `update slots set clean = true, move_id = '' where slot = (select slot from users where id = $1)`,
			expect{audit.CheckRows: slotName}},
		{"under a move that nobody knows", "s1", `update slots set move_id = 'm0' where slot = (select slot from users where id = $1)`,
			expect{audit.CheckMoves: "move m0"}},
		{"the copy differs: it counts nowhere", "s1", `with e as (delete from entries where user_id = $1)
			update accounts set balance = balance + 1000 where user_id = $1`, expect{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := shared.with(t, "s1", "s2")
			w.journey("m1", "s1", "s2", slot).whole()
			w.sql(c.where, c.sql, a2)
			r := w.audit(audit.Options{Chunk: 2})
			for name, id := range c.want {
				if !slices.ContainsFunc(r.Check(name).Violations, func(v audit.Violation) bool { return v.ID == id && v.Problem != "" }) {
					t.Errorf("%s does not name %q", name, id)
				}
			}
			for _, name := range r.Failed() {
				if _, ok := c.want[name]; !ok {
					t.Errorf("%s fails too", name)
				}
			}
			if t.Failed() || testing.Verbose() {
				t.Logf("\n%s", table(r))
			}
		})
	}
}

// Wrong lines of several slots, compared slot by slot: within a shard and between two.
func TestManyWrongLines(t *testing.T) {
	t.Parallel()
	w := newWorld(t, templates)
	w.journey("m1", "s1", "s2", placement.SlotOf(a2)).whole()
	w.sql("s2", `update entries set tx_id = tx_id || 'x' where tx_id = 'local' and amount > 0`)
	for _, lines := range []int{1, 1000} {
		r := w.audit(audit.Options{Lines: lines})
		var found []string
		for _, v := range r.Check(audit.CheckOperations).Violations {
			found = append(found, v.String())
		}
		slices.Sort(found)
		want := []string{ // sorted
			fmt.Sprintf("%s/local start on s1: it lacks its entry of +200 USD for %s", a1, a2),
			fmt.Sprintf("%s/localx start on s2: there is an entry of +200 USD for %s that it does not call for", a1, a2),
			fmt.Sprintf("%s/local start on s2: it lacks its entry of +1 USD for %s", b1, b2),
			fmt.Sprintf("%s/localx start on s2: there is an entry of +1 USD for %s that it does not call for", b1, b2),
		}
		if !slices.Equal(found, want) || !slices.Equal(r.Failed(), []audit.Name{audit.CheckOperations}) {
			t.Errorf("%q\n%s", found, table(r))
		}
	}
}

// A move between the snapshots of round 1: its slot is seen on neither shard, or on both.
func TestMoveBetweenSnapshots(t *testing.T) {
	t.Parallel()
	for _, shards := range [][2]ledger.ShardID{{"s1", "s2"}, {"s2", "s1"}} {
		w := newWorld(t, templates)
		user := map[ledger.ShardID]ledger.UserID{"s1": a2, "s2": b2}[shards[0]]
		b := &between{world: w, taken: make(chan struct{}), happens: func() {
			j := w.journey("m1", shards[0], shards[1], placement.SlotOf(user)).whole()
			j.end()
			w.must(part{op: add(user, "moved", 1)})
		}}
		r, err := audit.Run(t.Context(), b, audit.Options{Pause: time.Millisecond})
		if err != nil || r.Verdict != audit.Clean || r.Totals[1].Moved.Sign() != 0 {
			t.Errorf("from %s to %s: %v\n%s", shards[0], shards[1], err, table(r))
		}
	}
}

// A shard that cannot be read hides only what is its own.
func TestPartedFromAShardThatIsDown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, templates)
	w.journey("m1", "s1", "s3", placement.SlotOf(a2)).whole()
	w.open("s3", "postgres://saldo@127.0.0.1:1/none")
	w.sql("s2", `delete from entries where user_id = $1 and tx_id = 'local'`, b2)
	r := w.audit(audit.Options{})
	c := r.Check(audit.CheckOperations)
	if c.Found != 1 || c.Violations[0].ID != string(b1)+"/local start" || !slices.Equal(c.Gaps, []string{"shard s3 could not be read"}) {
		t.Errorf("\n%s", table(r))
	}
	if c := r.Check(audit.CheckMoves); c.Found != 0 || !slices.Equal(c.Gaps, []string{"shard s3 could not be read"}) {
		t.Errorf("\n%s", table(r))
	}
}

// A shard that joins while the audit runs has nothing in round 1. What has moved there is found there in round 2.
func TestShardThatJoins(t *testing.T) {
	t.Parallel()
	w := newWorld(t, templates)
	j := w.journey("m1", "s3", "s1", slotsOf(w.m, "s3")...).whole()
	j.end()
	w.view.Shards = []ledger.ShardID{"s1", "s2"}
	views := 0
	w.before = func(id ledger.ShardID) {
		if id != "" {
			return
		}
		if views++; views == 2 {
			w.open("s4", pgtest.Database(t, blank))
			w.view.Shards = []ledger.ShardID{"s1", "s2", "s4"}
			w.journey("m2", "s1", "s4", placement.SlotOf(a1)).whole().end()
		}
	}
	if r := w.audit(audit.Options{Progress: nothingTwice(t)}); r.Verdict != audit.Clean || len(r.Shards) != 3 || views != 2 {
		t.Errorf("after %d views:\n%s", views, table(r))
	}
}

func slotsOf(m *placement.Map, id ledger.ShardID) (slots []ledger.Slot) {
	for slot := range ledger.Slot(placement.Slots) {
		if m.Owner(slot).Shard == id {
			slots = append(slots, slot)
		}
	}
	return slots
}
