package shard_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/local"
	"github.com/saldo-ledger/saldo/internal/pgtest"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/shard"
)

// registry is what a registry knows of one shard's primary.
type registry struct {
	shard.Known
	crash bool // whoever asks it hears nothing, though it has decided

	elsewhere placement.SlotSet
	anew      map[ledger.Slot]ledger.Epoch
	fenced    []placement.Hold // by the latest adoption
}

func (r *registry) decide(_ context.Context, a shard.Adoption) error {
	if r.Timeline == a.To && r.Mark == a.Mark {
		return nil
	}
	if r.Timeline != a.From {
		return fmt.Errorf("the registry knows timeline %d", r.Timeline)
	}
	r.Timeline, r.Mark = a.To, a.Mark
	if r.crash {
		return errors.New("crash")
	}
	return nil
}

func (r *registry) adopt(t *testing.T, server *local.Postgres) (*shard.Standing, error) {
	t.Helper()
	s, fenced, err := shard.Adopt(t.Context(), server.DSN(), "", cluster, "s1", r.Known, r.decide, r.holds)
	r.fenced = fenced
	return s, err
}

// holds is all slots at their first epoch, but for those that have gone elsewhere or were given anew.
func (r *registry) holds(context.Context) (holds []placement.Hold, err error) {
	for slot := range ledger.Slot(placement.Slots) {
		if !slices.Contains(r.elsewhere, slot) {
			holds = append(holds, placement.Hold{Slot: slot, Epoch: cmp.Or(r.anew[slot], 1)})
		}
	}
	return holds, nil
}

func promote(t *testing.T, server *local.Postgres) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := server.Promote(ctx); err != nil {
		t.Fatal(err)
	}
}

// caughtUp waits until a standby has all that its primary has.
func caughtUp(t *testing.T, primary, standby *local.Postgres) {
	t.Helper()
	until := (&book{t: t, dsn: primary.DSN()}).sql(`select pg_current_wal_insert_lsn()::text`)
	eventually(t, "the standby has caught up", func() bool {
		return (&book{t: t, dsn: standby.DSN()}).sql(`select (pg_last_wal_replay_lsn() >= '`+until+`')::text`) == "true"
	})
}

// Two standbys of one primary are promoted, to timelines of the same number. One of them is adopted, whatever crashes on
// the way; the other one and the old primary are refused from then on.
func TestAdopt(t *testing.T) {
	t.Parallel()
	primary := private(t, nil)
	b := openAt(t, primary.DSN(), func(c *shard.Config) { c.Timeline = 1 })
	b.user("alice")
	b.must(add("alice", "fund", 100))
	one, other := pgtest.Standby(t, primary, false), pgtest.Standby(t, primary, false)
	r := &registry{Known: shard.Known{Timeline: 1}}
	if s, err := r.adopt(t, primary); err != nil || s.Timeline != 1 || r.Mark != "" {
		t.Errorf("to adopt what is adopted: %+v, %v", s, err)
	}
	eventually(t, "both follow", func() bool {
		s, err := shard.Look(t.Context(), primary.DSN(), "")
		return err == nil && len(s.Followers) == 2 && s.Followers[0].State == "streaming" && s.Followers[1].Sync == "async"
	})
	if _, err := r.adopt(t, one); !errors.Is(err, shard.ErrNotAdoptable) {
		t.Errorf("a standby: %v", err)
	}
	caughtUp(t, primary, one)
	caughtUp(t, primary, other)
	if err := primary.Kill(); err != nil {
		t.Fatal(err)
	}
	promote(t, one)
	promote(t, other)

	// on opens the shard as a process does that knows a timeline from the registry.
	on := func(timeline int, servers ...*local.Postgres) *book {
		var hosts, ports []string
		for _, server := range servers {
			hosts, ports = append(hosts, "127.0.0.1"), append(ports, fmt.Sprint(server.Port()))
		}
		dsn := fmt.Sprintf("host=%s port=%s user=postgres password=%s dbname=postgres sslmode=disable target_session_attrs=read-write",
			strings.Join(hosts, ","), strings.Join(ports, ","), primary.Password())
		return openAt(t, dsn, func(c *shard.Config) { c.Timeline, c.Patience = timeline, 100*time.Millisecond })
	}
	refused := func(what string, b *book) {
		t.Helper()
		if _, err := b.submit(add("alice", "never", 1)); !isStranger(err) {
			t.Errorf("%s: a write is answered %v", what, err)
		}
		for name, err := range b.reads("alice") {
			if !isStranger(err) {
				t.Errorf("%s: %s is answered %v", what, name, err)
			}
		}
	}
	refused("promoted, by an old view", on(1, one))
	refused("promoted, by no view", on(0, one))
	refused("promoted, by a new view", on(2, one))

	if s, _, err := shard.Adopt(t.Context(), one.DSN(), "", "another cluster", "s1", r.Known, r.decide, r.holds); !errors.Is(err, shard.ErrOtherShard) {
		t.Errorf("in another cluster: %+v, %v", s, err)
	}
	r.crash = true
	if _, err := r.adopt(t, one); err == nil || r.Timeline != 2 {
		t.Fatalf("a crash after the registry has decided: %v", err)
	}
	refused("decided", on(2, one))
	if _, err := r.adopt(t, other); !errors.Is(err, shard.ErrNotAdoptable) {
		t.Errorf("the other one, on timeline 2 as well: %v", err)
	}
	refused("the other one", on(2, other))
	// What it takes for its own and is not, it lost the news of. Of a newer epoch than the registry's nobody asks.
	lost := ledger.UserID("bob")
	for placement.SlotOf(lost) < 3 || placement.SlotOf(lost) == placement.SlotOf("alice") {
		lost += "b"
	}
	(&book{t: t, dsn: one.DSN()}).alter(`update saldo.slots set epoch = 4 where slot in (1, 2)`,
		`update saldo.slots set state = 'moved' where slot = 0`)
	r.elsewhere = placement.NewSlotSet(0, placement.SlotOf(lost))
	r.anew = map[ledger.Slot]ledger.Epoch{1: 3, 2: 5}
	for _, want := range [][]placement.Hold{{{Slot: 2, Epoch: 4}, {Slot: placement.SlotOf(lost), Epoch: 1}}, nil} {
		s, err := r.adopt(t, one)
		if err != nil || s.Adopted != 2 || len(s.Forks) != 1 || s.Forks[0].Timeline != 1 {
			t.Fatalf("again, without a crash: %+v, %v", s, err)
		}
		if !slices.Equal(r.fenced, want) {
			t.Errorf("fenced: %v, not %v", r.fenced, want)
		}
	}
	refused("adopted, by an old view", on(1, one))
	var ownership *placement.OwnershipError
	old := placement.Hold{Slot: placement.SlotOf(lost), Epoch: 1}
	if _, err := on(2, one).Submit(t.Context(), add(lost, "never", 1), old); !errors.As(err, &ownership) {
		t.Errorf("a slot that has moved away, to a router with an old map: %v", err)
	}
	if result := on(2, one).must(add("alice", "t", 1)); result.Balance != 101 {
		t.Errorf("adopted: %+v", result)
	}

	// A registry that was set back begins to adopt it again: the mark stays, so that the newer registry still knows the server.
	back := &registry{Known: shard.Known{Timeline: 1}, elsewhere: r.elsewhere, anew: r.anew}
	silent := func(context.Context, shard.Adoption) error { return errors.New("the registry is away") }
	if _, _, err := shard.Adopt(t.Context(), one.DSN(), "", cluster, "s1", back.Known, silent, back.holds); err == nil {
		t.Error("it is adopted though the registry is away")
	}
	if _, err := r.adopt(t, one); err != nil {
		t.Errorf("after that: %v", err)
	}
	if _, err := back.adopt(t, one); err != nil || back.Known != r.Known {
		t.Errorf("by the registry that was set back: %+v, not %+v: %v", back.Known, r.Known, err)
	}

	// The old primary comes back, and finds itself adopted.
	if err := primary.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	refused("the old primary", on(2, primary))
	if _, err := r.adopt(t, primary); !errors.Is(err, shard.ErrNotAdoptable) {
		t.Errorf("the old primary: %v", err)
	}
	if balance := on(2, primary, other, one).balance("alice"); balance != 101 {
		t.Errorf("of three hosts, the adopted one says %d", balance)
	}
	if result := on(2, primary, other, one).must(add("alice", "t2", 1)); result.Balance != 102 {
		t.Errorf("of three hosts: %+v", result)
	}
}

// Two people adopt one server at once: whoever marks it last does not undo what was decided by the mark before, and whoever is
// late does not fence what the shard was given since.
func TestAdoptOneServerTwiceAtOnce(t *testing.T) {
	t.Parallel()
	primary := private(t, nil)
	server := pgtest.Standby(t, primary, false)
	caughtUp(t, primary, server)
	if err := primary.Kill(); err != nil {
		t.Fatal(err)
	}
	promote(t, server)
	r := &registry{Known: shard.Known{Timeline: 1}}
	begin := func() (mark string, finish func()) {
		marked, goOn, ended := make(chan string), make(chan struct{}), make(chan error)
		go func() {
			_, fenced, err := shard.Adopt(context.Background(), server.DSN(), "", cluster, "s1", shard.Known{Timeline: 1},
				func(ctx context.Context, a shard.Adoption) error {
					marked <- a.Mark
					<-goOn
					return r.decide(ctx, a)
				}, r.holds)
			if len(fenced) > 0 {
				err = errors.Join(err, fmt.Errorf("fenced: %v", fenced))
			}
			ended <- err
		}()
		return <-marked, func() {
			t.Helper()
			close(goOn)
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	}
	one, finish := begin()
	other, finishLate := begin()
	if one != other {
		t.Errorf("it is marked %s, and then %s", one, other)
	}
	finish()
	r.elsewhere = placement.NewSlotSet(0) // as it was before the shard got it
	finishLate()
	if _, err := r.adopt(t, server); err != nil || r.Timeline != 2 || r.Mark != one {
		t.Errorf("then the registry knows %+v: %v", r.Known, err)
	}
	b := &book{t: t, dsn: server.DSN()}
	if got := b.sql(`select timeline || ' ' || (select count(*) from saldo.slots where state <> 'owned') from saldo.shard_meta`); got != "2 0" {
		t.Errorf("its timeline, and how many slots are not owned: %s", got)
	}
}

// A standby of a standby: promoted twice, adopted once. And what the positions that were noted before say about it.
func TestAdoptAfterTwoPromotions(t *testing.T) {
	t.Parallel()
	first := private(t, nil)
	b := openAt(t, first.DSN())
	b.user("alice")
	b.must(add("alice", "fund", 100))
	second := pgtest.Standby(t, first, false)
	position := func(last shard.Position) shard.Position {
		t.Helper()
		now, err := b.Position(t.Context(), last)
		if err != nil {
			t.Fatal(err)
		}
		return now
	}
	kept := position(shard.Position{})
	if again := position(kept); again != kept {
		t.Errorf("nothing was written, and %v becomes %v", kept, again)
	}
	caughtUp(t, first, second)
	if err := second.Kill(); err != nil { // and so does not have what comes now
		t.Fatal(err)
	}
	b.must(add("alice", "gone", 100))
	gone := position(kept)
	if gone.Timeline != 1 || gone.LSN <= kept.LSN {
		t.Errorf("the position goes from %v to %v", kept, gone)
	}
	if err := first.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := second.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	promote(t, second)
	third := pgtest.Standby(t, second, false)
	caughtUp(t, second, third)
	if err := second.Kill(); err != nil {
		t.Fatal(err)
	}
	promote(t, third)

	r := &registry{Known: shard.Known{Timeline: 1}}
	s, err := r.adopt(t, third)
	if err != nil || s.Timeline != 3 || r.Timeline != 3 {
		t.Fatalf("%+v, %v", s, err)
	}
	if timelines := []int{s.Forks[0].Timeline, s.Forks[1].Timeline}; !slices.Equal(timelines, []int{1, 2}) {
		t.Errorf("it comes from %v", timelines)
	}
	if loss := s.Loss(kept); loss != "" {
		t.Errorf("of what it has: %s", loss)
	}
	if loss := s.Loss(gone); !strings.Contains(loss, fmt.Sprint(gone.LSN)) || !strings.Contains(loss, fmt.Sprint(s.Forks[0].At)) {
		t.Errorf("of what it lacks: %q", loss)
	}
	now := openAt(t, third.DSN(), func(c *shard.Config) { c.Timeline = 3 })
	if balance := now.balance("alice"); balance != 100 {
		t.Errorf("alice has %d", balance)
	}
	if at, err := now.Position(t.Context(), gone); err != nil || at.Timeline != 3 {
		t.Errorf("the new primary's position: %v, %v", at, err)
	}
}

// A timeline of the same number may be another one: the database must tell of the adoption, or of the mark that came before it.
func TestTimelineOfTheSameNumber(t *testing.T) {
	t.Parallel()
	third := shard.Standing{
		Cluster: "c", Shard: "s1", Timeline: 3, Forks: []shard.Fork{{Timeline: 1, At: 10}, {Timeline: 2, At: 20}},
	}
	for _, c := range []struct {
		name      string
		adopted   int
		marked    string
		known     shard.Known
		adoptable bool
	}{
		{"it was adopted on 2", 2, "m2", shard.Known{Timeline: 2, Mark: "m2"}, true},
		{"and marked for a third", 2, "m3", shard.Known{Timeline: 2, Mark: "m2"}, true},
		{"the crash came between the registry and the database", 1, "m2", shard.Known{Timeline: 2, Mark: "m2"}, true},
		{"it was promoted twice and never adopted", 1, "", shard.Known{Timeline: 1}, true},
		{"an old backup, restored twice", 1, "", shard.Known{Timeline: 2, Mark: "m2"}, false},
		{"and somebody tried to adopt that", 1, "m9", shard.Known{Timeline: 2, Mark: "m2"}, false},
		{"it was adopted on 3", 3, "m3", shard.Known{Timeline: 3, Mark: "m3"}, true},
		{"it was adopted on 3, another one after etcd was set back", 3, "m9", shard.Known{Timeline: 3, Mark: "m3"}, false},
		{"it was adopted on 3, and the registry has no mark of it", 3, "m3", shard.Known{Timeline: 3}, true},
		{"the crash came between the registry and the database, on 3", 2, "m3", shard.Known{Timeline: 3, Mark: "m3"}, true},
		{"it was marked on 3, another one was adopted", 2, "m9", shard.Known{Timeline: 3, Mark: "m3"}, false},
		{"it was never marked, and another one was registered on 3", 2, "", shard.Known{Timeline: 3}, false},
	} {
		third.Adopted = c.adopted
		err := shard.Adoptable(third, c.marked, c.known)
		if (err == nil) != c.adoptable || err != nil && !errors.Is(err, shard.ErrNotAdoptable) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// What a primary has on disk and no standby has is not durable where standbys are waited for: nobody was told of it.
func TestPositionWaitsForStandbys(t *testing.T) {
	t.Parallel()
	b := openAt(t, private(t, nil).DSN())
	b.user("alice")
	first, err := b.Position(t.Context(), shard.Position{})
	if err != nil {
		t.Fatal(err)
	}
	b.alter(`alter system set synchronous_standby_names = '*'`, `select pg_reload_conf()`, `set synchronous_commit = local`, `create table more ()`)
	eventually(t, "commits wait", func() bool { return b.sql(`show synchronous_standby_names`) == "*" })
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if now, err := b.Position(ctx, first); err == nil {
		t.Errorf("without a standby the position is %v, after %v", now, first)
	}
	b.alter(`alter system reset synchronous_standby_names`, `select pg_reload_conf()`)
	if now, err := b.Position(t.Context(), first); err != nil || now.LSN <= first.LSN {
		t.Errorf("then it is %v, after %v: %v", now, first, err)
	}
}

func TestLoss(t *testing.T) {
	t.Parallel()
	s := &shard.Standing{Timeline: 4, LSN: 900, Forks: []shard.Fork{{Timeline: 1, At: 100}, {Timeline: 3, At: 500}}}
	for _, test := range []struct {
		noted shard.Position
		says  string
	}{
		{shard.Position{Timeline: 1, LSN: 100}, ""},
		{shard.Position{Timeline: 1, LSN: 101}, "the 1 bytes between"},
		{shard.Position{Timeline: 2, LSN: 50}, "does not come from there"},
		{shard.Position{Timeline: 3, LSN: 400}, ""},
		{shard.Position{Timeline: 3, LSN: 900}, "the 400 bytes between"},
		{shard.Position{Timeline: 4, LSN: 900}, ""},
		{shard.Position{Timeline: 4, LSN: 950}, "the 50 bytes between"}, // restored within the timeline
	} {
		if loss := s.Loss(test.noted); (loss == "") != (test.says == "") || !strings.Contains(loss, test.says) {
			t.Errorf("%v: %q", test.noted, loss)
		}
	}
	unknown := &shard.Standing{Timeline: 4, LSN: 900, ForksUnknown: "permission denied"}
	if loss := unknown.Loss(shard.Position{Timeline: 1, LSN: 800}); loss != "" {
		t.Errorf("without a history: %q", loss)
	}
}

func TestLSN(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"0/0", "0/5000028", "1F/FFFFFFFF"} {
		if lsn, err := shard.ParseLSN(text); err != nil || lsn.String() != text {
			t.Errorf("%s: %v, %v", text, lsn, err)
		}
	}
	for _, text := range []string{"", "5", "0/", "/0", "0/x", "0/100000000"} {
		if lsn, err := shard.ParseLSN(text); err == nil {
			t.Errorf("%q: %v", text, lsn)
		}
	}
}
