package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/rebalance"
)

// trouble is what is done to a cluster while slots move.
type trouble struct {
	*scaled
	t      *testing.T
	over   context.Context // ends when the time is up: what was not done yet is not done
	done   atomic.Int64    // faults
	shards sync.Mutex      // held while a shard's Postgres is killed

	mu    sync.Mutex
	armed map[string]bool // guarded by mu; points that somebody uses
}

// use waits until nobody else uses a point. It returns what ends the use.
func (x *trouble) use(point string) (end func()) {
	for ; ; time.Sleep(5 * time.Millisecond) {
		x.mu.Lock()
		if !x.armed[point] {
			x.armed[point] = true
			x.mu.Unlock()
			return sync.OnceFunc(func() {
				x.mu.Lock()
				defer x.mu.Unlock()
				delete(x.armed, point)
			})
		}
		x.mu.Unlock()
	}
}

// failpoint is set at one point of a move.
type failpoint struct {
	x           *trouble
	file, taken string
	release     func() // ends a pause, and the use of the point; must be called
}

// set has the coordinator that comes first to a point do something there: kill, stop, pause.
func (x *trouble) set(point, action string) *failpoint {
	file := filepath.Join(x.failpoints, strings.ReplaceAll(point, " ", "-"))
	f := &failpoint{x: x, file: file, taken: file + ".taken"}
	end := x.use(point)
	f.release = sync.OnceFunc(func() {
		_ = os.Remove(f.taken)
		end()
	})
	// Written beside and renamed: who looks finds it whole.
	err := os.WriteFile(file+".new", []byte(action), 0o600)
	if err == nil {
		err = os.Rename(file+".new", file)
	}
	if err != nil {
		x.t.Error(err)
	}
	return f
}

// wait returns the id of the process that has come, 0 if nobody does.
func (f *failpoint) wait() (pid int) {
	begun := time.Now()
	for f.x.over.Err() == nil && time.Since(begun) < 30*time.Second {
		if pid := f.who(); pid != 0 {
			return pid
		}
		time.Sleep(2 * time.Millisecond)
	}
	if f.cancel() {
		return 0
	}
	for pid == 0 {
		pid = f.who()
	}
	return pid
}

// who is the process that has come, 0 if nobody has so far.
func (f *failpoint) who() int {
	text, err := os.ReadFile(f.taken)
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(string(text)) // it may not have been written yet
	return pid
}

// cancel tells whether nobody has come, and nobody will.
func (f *failpoint) cancel() bool { return os.Remove(f.file) == nil }

// coordinator returns the coordinator with a process id.
func (x *trouble) coordinator(pid int) *process {
	for _, p := range x.coordinators {
		if p.pid() == pid {
			return p
		}
	}
	return nil
}

// depose ends what a coordinator is elected for, as the end of its leases does. It is not told.
func (x *trouble) depose(name, election string) {
	ctx, cancel := context.WithTimeout(context.Background(), long)
	defer cancel()
	resp, err := x.etcdClient.Get(ctx, "/saldo/default/leaders/"+election, clientv3.WithPrefix())
	if err != nil {
		x.t.Error(err)
		return
	}
	for _, kv := range resp.Kvs {
		if string(kv.Value) == name {
			_, _ = x.etcdClient.Revoke(ctx, clientv3.LeaseID(kv.Lease)) // it may have ended
		}
	}
}

// leader is the name of who moves slots, "" if nobody does.
func (x *trouble) leader() string {
	ctx, cancel := context.WithTimeout(context.Background(), long)
	defer cancel()
	name, _, err := x.registry.Leader(ctx, "rebalancer")
	if err != nil {
		x.t.Error(err)
	}
	return name
}

func nameOf(p *process) string { return "c" + strings.TrimPrefix(p.name, "coordinator") }

// kill kills the coordinator that comes to a point.
func (x *trouble) kill(point string) bool {
	f := x.set(point, "kill")
	defer f.release()
	return x.killed(f, point)
}

// killed waits for the death of a coordinator and starts it again. Its leases end at once, so that the next one takes over
// without a wait.
func (x *trouble) killed(f *failpoint, point string) bool {
	pid := f.wait()
	if pid == 0 {
		return false
	}
	p := x.coordinator(pid)
	if p == nil {
		x.t.Errorf("process %d came to %q and is no coordinator", pid, point)
		return false
	}
	<-p.ending()
	x.depose(nameOf(p), "")
	if err := p.start(); err != nil {
		x.t.Error(err)
	}
	return true
}

// sleep stops the coordinator that comes to a point until another one has taken over and gone on; then it wakes and does
// what it was about to do. Its own leases seem to it to be in force.
func (x *trouble) sleep(point string) bool {
	f := x.set(point, "stop")
	defer f.release()
	pid := f.wait()
	if pid == 0 {
		return false
	}
	p := x.coordinator(pid)
	if p == nil {
		return false // it was killed
	}
	defer func() { _ = syscall.Kill(pid, syscall.SIGCONT) }()
	x.depose(nameOf(p), "")
	x.await(func() bool { next := x.leader(); return next != "" && next != nameOf(p) })
	before := x.revisions()
	x.await(func() bool { return x.revisions() != before })
	return true
}

// cutOff cuts the coordinator that is about to open slots off from etcd, and lets it go on when another one has taken over,
// fenced the slots and copied the last of what was written. It does not know that it leads no more.
func (x *trouble) cutOff() bool {
	f := x.set("before unfence", "pause")
	defer f.release()
	pid := f.wait()
	if pid == 0 {
		return false
	}
	p := x.coordinator(pid)
	if p == nil {
		return false // it was killed
	}
	gate := x.etcdGates[slices.Index(x.coordinators, p)]
	gate.stalled.Store(true)
	defer gate.stalled.Store(false)
	x.depose(nameOf(p), "")
	next := x.set("before switch", "pause")
	defer next.release()
	if next.wait() == 0 {
		return false
	}
	f.release()
	time.Sleep(300 * time.Millisecond) // in which it does what it was about to do
	return true
}

// sleepLong stops it for longer than its lease lasts.
func (x *trouble) sleepLong(point string) bool {
	f := x.set(point, "stop")
	defer f.release()
	pid := f.wait()
	if pid == 0 {
		return false
	}
	time.Sleep(6500 * time.Millisecond)
	_ = syscall.Kill(pid, syscall.SIGCONT)
	return true
}

// two takes the leadership away from who moves slots, who goes on until it notices, beside the next one.
func (x *trouble) two() bool {
	name := x.leader()
	if name == "" {
		return false
	}
	x.depose(name, "rebalancer")
	x.await(func() bool { next := x.leader(); return next != "" && next != name })
	return true
}

// revisions changes when any move does.
func (x *trouble) revisions() (newest int64) {
	for _, move := range x.view(x.t).Moves {
		newest = max(newest, move.Revision)
	}
	return newest
}

// await waits for something that need not come.
func (x *trouble) await(come func() bool) {
	for begun := time.Now(); !come() && time.Since(begun) < 3*time.Second && x.over.Err() == nil; {
		time.Sleep(10 * time.Millisecond)
	}
}

// postgres kills the Postgres of a move's source or target when the move comes to a point.
func (x *trouble) postgres(point string, phase placement.Phase, target bool) bool {
	f := x.set(point, "pause")
	defer f.release()
	if f.wait() == 0 {
		return false
	}
	for _, move := range x.view(x.t).Moves {
		if move.Phase != phase {
			continue
		}
		id := move.Source
		if target {
			id = move.Target
		}
		x.shards.Lock()
		defer x.shards.Unlock()
		server := x.servers[x.number(id)]
		old := server.PID()
		if old == 0 || syscall.Kill(old, syscall.SIGKILL) != nil {
			return false
		}
		f.release()
		for begun := time.Now(); time.Since(begun) < long; time.Sleep(10 * time.Millisecond) {
			if pid := server.PID(); pid != 0 && pid != old {
				return true
			}
		}
		x.t.Errorf("%s does not come back", id)
		return false
	}
	return false
}

// stuck holds a mover inside the fence for longer than anybody may be: the move is aborted by whoever sees it.
func (x *trouble) stuck() bool {
	f := x.set("after fence", "pause")
	defer f.release()
	if f.wait() == 0 {
		return false
	}
	ended := func() bool {
		for _, move := range x.view(x.t).Moves {
			if strings.Contains(move.Cause, "fenced for more than") {
				return true
			}
		}
		return false
	}
	for begun := time.Now(); time.Since(begun) < 10*time.Second; time.Sleep(20 * time.Millisecond) {
		if ended() {
			return true
		}
	}
	return false
}

// abort takes a move back when it comes to a point, as a person does, or finds that it is too late. If killed is set, who
// ends the move is killed there.
func (x *trouble) abort(point string, phase placement.Phase, killed string) (done bool) {
	f := x.set(point, "pause")
	defer f.release()
	if f.wait() == 0 {
		return false
	}
	var deadly *failpoint
	if killed != "" {
		deadly = x.set(killed, "kill")
		defer deadly.release()
	}
	for _, move := range x.view(x.t).Moves {
		if move.Phase != phase {
			continue
		}
		_, stderr, code, err := run(x.env, x.saldo, "move", "abort", "--yes", string(move.ID))
		late := strings.Contains(stderr, "cannot be aborted")
		if err != nil || code != 0 && !late && !strings.Contains(stderr, "has changed") {
			x.t.Errorf("saldo move abort exits with %d: %v\n%s", code, err, stderr)
		}
		done = code == 0 || late && deadly == nil
		break
	}
	if deadly != nil && (done || !deadly.cancel()) {
		f.release()
		return x.killed(deadly, killed)
	}
	return done
}

// hopeless makes a move one that cannot go on, as if its source were another server than it was when the copy began, and kills
// who gives it up.
func (x *trouble) hopeless(killed string) bool {
	f := x.set("before pass", "pause")
	defer f.release()
	if f.wait() == 0 {
		return false
	}
	deadly := x.set(killed, "kill")
	defer deadly.release()
	for _, move := range x.view(x.t).Moves {
		if move.Phase == placement.PhaseCatchup && x.mistake(move) {
			f.release()
			return x.killed(deadly, killed)
		}
	}
	return false
}

// mistake changes which server a move's target takes its source for. It tells whether it has: the target may be down.
func (x *trouble) mistake(move placement.Move) bool {
	ctx, cancel := context.WithTimeout(context.Background(), long)
	defer cancel()
	conn, err := pgx.Connect(ctx, x.ownerDSN(x.number(move.Target)))
	if err != nil {
		return false
	}
	defer conn.Close(ctx)
	tag, err := conn.Exec(ctx, `update saldo.moves set system = system + 1 where move_id = $1`, move.ID)
	return err == nil && tag.RowsAffected() == 1
}

// byHand moves some slots between the founders, whichever has more, and returns the move; false if there is no room for one.
func (x *trouble) byHand(number int) (move placement.Move, planned bool) {
	view := x.view(x.t)
	from, to := ledger.ShardID("s1"), ledger.ShardID("s2")
	if slotsOf(view)[from] < slotsOf(view)[to] {
		from, to = to, from
	}
	var own placement.SlotSet
	for slot := range ledger.Slot(placement.Slots) {
		if view.Map.Owner(slot).Shard == from {
			own = append(own, slot)
		}
	}
	if len(own) <= number {
		return move, false
	}
	begin := rand.IntN(len(own) - number)
	return x.start(from, to, own[begin:begin+number])
}

// start begins a move, as a person does. The cluster's state may forbid it.
func (x *trouble) start(from, to ledger.ShardID, slots placement.SlotSet) (move placement.Move, planned bool) {
	_, _, code, err := run(x.env, x.saldo,
		"move", "start", "--from", string(from), "--to", string(to), "--slots", slots.String(), "--why", "trouble")
	if err != nil {
		x.t.Error(err)
	}
	if code != 0 {
		return move, false
	}
	for _, move := range x.view(x.t).Moves {
		if move.Source == from && move.Target == to && slices.Equal(move.Slots, slots) && !move.Phase.Ended() {
			return move, true
		}
	}
	return move, false
}

// phase is how far a move has come.
func (x *trouble) phase(id placement.MoveID) placement.Phase {
	move, _ := x.view(x.t).Move(id)
	return move.Phase
}

// thereAndBack moves slots away and back again: that is refused until the copy they left is deleted, which on a slow machine
// it may be before somebody has asked.
func (x *trouble) thereAndBack() {
	var there placement.Move
	until(x.t, "slots move away", long, func() (planned bool) {
		there, planned = x.byHand(40)
		return planned
	})
	refused := 0
	until(x.t, "they move back", long, func() bool {
		if phase := x.phase(there.ID); phase != placement.PhaseClean && phase != placement.PhaseDone {
			return phase == placement.PhaseAborted
		}
		_, stderr, code, err := run(x.env, x.saldo,
			"move", "start", "--from", string(there.Target), "--to", string(there.Source), "--slots", there.Slots.String())
		switch {
		case err != nil:
			x.t.Error(err)
		case code == 0 && x.phase(there.ID) == placement.PhaseClean:
			x.t.Errorf("slots move back to %s, which still has a copy of them", there.Source)
		case strings.Contains(stderr, "wait until it was cleaned"), strings.Contains(stderr, "still holds"):
			refused++
		}
		return code == 0
	})
	x.say(x.t, "%d slots have moved there and back; refused %d times before their copy was deleted", len(there.Slots), refused)
}

// lose loses the answers to commits at a shard, the movers' too.
func (x *trouble) lose() bool {
	var own []ledger.ShardID // shards with slots
	for id := range slotsOf(x.view(x.t)) {
		own = append(own, id)
	}
	gate := x.gates[x.number(own[rand.IntN(len(own))])]
	before := gate.lost.Load()
	for n := 0; n < 3 || n < 20 && gate.lost.Load() == before; n++ {
		gate.loseAnswers(time.Duration(20+rand.IntN(100)) * time.Millisecond)
		time.Sleep(50 * time.Millisecond)
	}
	return gate.lost.Load() > before
}

// fault is something that is tried until it has been done.
type fault struct {
	kind, name string
	inject     func() bool
}

// kills are the deaths of coordinators before or after every step that a move may take.
func (x *trouble) kills(when string) (faults []fault) {
	aborting := map[string]bool{"abort": true, "restore": true, "discard": true, "record aborted": true}
	for _, point := range rebalance.Points {
		f := fault{"kill", "a coordinator is killed " + when + point, func() bool { return x.kill(when + point) }}
		switch {
		case point == "abort": // a mover does it by itself only if the move is hopeless
			f.inject = func() bool { return x.hopeless(when + point) }
		case aborting[point]:
			f.inject = func() bool { return x.abort("after pass", placement.PhaseCatchup, when+point) }
		}
		faults = append(faults, f)
	}
	return faults
}

// others are all other faults.
func (x *trouble) others() (faults []fault) {
	add := func(kind, when string, inject func() bool) { faults = append(faults, fault{kind, kind + when, inject}) }
	for _, at := range []struct {
		point string
		phase placement.Phase
	}{
		{"before mark", placement.PhaseMark}, {"before copy", placement.PhaseCopy}, {"before pass", placement.PhaseCatchup},
		{"before final", placement.PhaseFence}, {"before activate", placement.PhaseSwitched}, {"before clean", placement.PhaseClean},
	} {
		add("the source's Postgres is killed ", at.point, func() bool { return x.postgres(at.point, at.phase, false) })
		add("the target's Postgres is killed ", at.point, func() bool { return x.postgres(at.point, at.phase, true) })
	}
	for _, point := range []string{
		"before mark", "before copy", "before fence", "after fence", "before switch", "before activate", "before tombstone",
		"before clean",
	} {
		add("a mover sleeps ", point, func() bool { return x.sleep(point) })
	}
	add("a mover that is cut off from etcd goes on inside another one's fence", "", x.cutOff)
	add("a mover sleeps for longer than its lease ", "before final", func() bool { return x.sleepLong("before final") })
	for range 3 {
		add("two movers at once", "", x.two)
		add("answers to commits are lost", "", x.lose)
	}
	for _, at := range []struct {
		point string
		phase placement.Phase
	}{
		{"before copy", placement.PhaseCopy}, {"after verify", placement.PhaseCatchup}, {"after final", placement.PhaseFence},
		{"before activate", placement.PhaseSwitched},
	} {
		add("a move is aborted ", at.point, func() bool { return x.abort(at.point, at.phase, "") })
	}
	add("a mover stays inside the fence", "", x.stuck)
	return faults
}

// all injects every fault until it was done, in an order that the seed chooses, one of each kind first. When enough is closed
// it leaves out what need not be: others of their kind. It returns what should have been done and was not.
func (x *trouble) all(faults []fault, seed uint64, enough <-chan struct{}) (missed []string) {
	random := rand.New(rand.NewPCG(seed, 1))
	random.Shuffle(len(faults), func(i, j int) { faults[i], faults[j] = faults[j], faults[i] })
	var first, rest []fault
	seen := make(map[string]bool)
	for _, f := range faults {
		if seen[f.kind] {
			rest = append(rest, f)
		} else {
			first, seen[f.kind] = append(first, f), true
		}
	}
	for i, f := range append(first, rest...) {
		done, needed := false, func() bool { return i < len(first) || !closed(enough) }
		for !done && needed() && x.over.Err() == nil {
			done = f.inject()
		}
		switch {
		case done:
			x.done.Add(1)
			x.say(x.t, "%s", f.name)
		case needed():
			missed = append(missed, f.name)
		}
	}
	return missed
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// keepMoving keeps slots moving between the founders while nothing else does.
func (x *trouble) keepMoving(ctx context.Context) {
	for ctx.Err() == nil {
		if !moving(x.view(x.t)) {
			x.byHand(30 + rand.IntN(60))
		}
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// nudge has `saldo rebalance` plan what coordinators leave alone for a while after an abort, until done.
func (x *trouble) nudge(what string, done func() bool) {
	limit := 10 * long
	for begun := time.Now(); !done(); time.Sleep(100 * time.Millisecond) {
		if time.Since(begun) > limit {
			x.t.Fatalf("not within %v: %s: %v", limit, what, fmt.Sprint(slotsOf(x.view(x.t))))
		}
		if !moving(x.view(x.t)) && !done() {
			_, _, _, _ = run(x.env, x.saldo, "rebalance", "--move-slots", "400") // shards may be away
		}
	}
}
