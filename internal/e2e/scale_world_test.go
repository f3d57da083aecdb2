package e2e

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	registry "github.com/saldo-ledger/saldo/internal/cluster"
	"github.com/saldo-ledger/saldo/internal/etcdtest"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// scaled is a cluster that begins with two shards of five servers.
type scaled struct {
	*cluster
	failpoints string      // folder
	etcdGates  []*etcdGate // by coordinator; nil if there are none
	etcdClient *clientv3.Client
	registry   *registry.Cluster
	begun      time.Time
}

const (
	founders  = 2
	allShards = 5
)

func newScaled(t *testing.T, s size) *scaled {
	t.Helper()
	s.shards, s.founders = allShards, founders
	folder := t.TempDir()
	s.coordinator = append(s.coordinator, "SALDO_REBALANCE=auto", "SALDO_FAILPOINTS="+folder)
	s.uncoordinate = s.gated
	c := &scaled{cluster: newCluster(t, s), failpoints: folder, begun: time.Now()}
	if s.gated {
		for _, p := range c.coordinators {
			gate := newEtcdGate(t, c.etcd)
			c.etcdGates = append(c.etcdGates, gate)
			p.env = append(p.env, "SALDO_ETCD=http://"+gate.address)
			if err := p.start(); err != nil {
				t.Fatal(err)
			}
		}
	}
	c.etcdClient = etcdtest.Connect(t, c.etcd.Endpoints())
	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	var err error
	if c.registry, err = registry.Connect(ctx, registry.Config{Endpoints: c.etcd.Endpoints()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.registry.Close() })
	c.ready(t, 0)
	c.ready(t, 1)
	return c
}

// say tells a person what happens.
func (c *scaled) say(t *testing.T, format string, args ...any) {
	t.Helper()
	t.Logf("%6.1fs  %s", time.Since(c.begun).Seconds(), fmt.Sprintf(format, args...))
}

// view is what the registry says.
func (c *scaled) view(t *testing.T) *registry.View {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), long)
	defer cancel()
	view, err := c.registry.Read(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return view
}

func (c *scaled) number(id ledger.ShardID) int {
	n, err := strconv.Atoi(strings.TrimPrefix(string(id), "s"))
	if err != nil {
		panic(err)
	}
	return n - 1
}

// slotsOf is how many slots each shard owns.
func slotsOf(view *registry.View) map[ledger.ShardID]int {
	slots := make(map[ledger.ShardID]int)
	for _, r := range view.Map.Ranges() {
		slots[r.Shard] += int(r.Last-r.First) + 1
	}
	return slots
}

// balanced tells whether the active shards have all slots, as their weights say.
func balanced(view *registry.View) bool {
	active, slots := view.Active(), slotsOf(view)
	weights, sum := 0, 0
	for _, id := range active {
		weights += view.Shards[id].Weight
	}
	for _, id := range active {
		if share := placement.Slots * view.Shards[id].Weight / weights; slots[id] < share || slots[id] > share+1 {
			return false
		}
		sum += slots[id]
	}
	return sum == placement.Slots
}

// comes waits until the registry says something. It does not ask often: that is work for those who are measured.
func (c *scaled) comes(t *testing.T, what string, done func(*registry.View) bool) {
	t.Helper()
	last := time.Time{}
	until(t, what, 10*long, func() bool {
		if time.Since(last) < 200*time.Millisecond {
			return false
		}
		last = time.Now()
		return done(c.view(t))
	})
}

// unfinished are the moves that have not ended.
func unfinished(view *registry.View) []placement.Move {
	return slices.DeleteFunc(slices.Clone(view.Moves), func(move placement.Move) bool { return move.Phase.Ended() })
}

// moving tells whether slots are on their way, or about to be.
func moving(view *registry.View) bool {
	return slices.ContainsFunc(unfinished(view), func(move placement.Move) bool { return move.Phase != placement.PhaseClean })
}

// grow adds the other shards.
func (c *scaled) grow(t *testing.T) {
	t.Helper()
	for i := founders; i < allShards; i++ {
		c.addShard(t, i)
		c.say(t, "%s has joined", c.shard(i))
	}
}

// shrink has them drained.
func (c *scaled) shrink(t *testing.T) {
	t.Helper()
	for i := founders; i < allShards; i++ {
		c.must(t, "shard", "drain", c.shard(i))
		c.say(t, "%s drains", c.shard(i))
	}
}

// must runs saldo, which has to do it.
func (c *scaled) must(t *testing.T, args ...string) string {
	t.Helper()
	stdout, stderr, code, err := run(c.env, c.saldo, args...)
	if err != nil || code != 0 {
		t.Fatalf("saldo %s exits with %d: %v\n%s%s", strings.Join(args, " "), code, err, stdout, stderr)
	}
	return stdout + stderr
}

// mustNot runs saldo, which has to refuse it with these words.
func (c *scaled) mustNot(t *testing.T, words string, args ...string) {
	t.Helper()
	stdout, stderr, code, err := run(c.env, c.saldo, args...)
	if err != nil || code == 0 || !strings.Contains(stderr, words) {
		t.Errorf("saldo %s exits with %d and does not say %q: %v\n%s%s", strings.Join(args, " "), code, words, err, stdout, stderr)
	}
}

// follow says which moves come and go until ctx ends.
func (c *scaled) follow(ctx context.Context, t *testing.T) {
	phases := make(map[placement.MoveID]placement.Phase)
	for ctx.Err() == nil {
		view, err := c.registry.Read(ctx)
		if err == nil {
			for _, move := range view.Moves {
				if before := phases[move.ID]; before != move.Phase {
					phases[move.ID] = move.Phase
					switch move.Phase {
					case placement.PhaseClean:
						c.say(t, "%d slots have moved from %s to %s; their writes waited for %d ms",
							len(move.Slots), move.Source, move.Target, move.FenceMillis)
					case placement.PhaseAborting, placement.PhaseAborted:
						c.say(t, "%d slots stay on %s: %s: %s", len(move.Slots), move.Source, move.Phase, move.Cause)
					}
				}
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// wantSettled checks that nothing of any move is left, at the shards too, and that every shard enforces what the registry
// says.
func (c *scaled) wantSettled(t *testing.T) {
	t.Helper()
	view := c.view(t)
	if left := unfinished(view); len(left) > 0 {
		t.Errorf("moves have not ended: %v", left)
	}
	type row struct {
		Slot  int
		State string
		Epoch int64
		Move  string
		Clean bool
	}
	for i := range c.servers {
		conn := connect(t, c.ownerDSN(i))
		rows, err := conn.Query(context.Background(), `select slot, state, epoch, move_id, clean from saldo.slots order by slot`)
		if err != nil { // it has never joined
			conn.Close(context.Background())
			continue
		}
		var r row
		owned := make(map[int]bool)
		for rows.Next() {
			if err := rows.Scan(&r.Slot, &r.State, &r.Epoch, &r.Move, &r.Clean); err != nil {
				t.Fatal(err)
			}
			owner := view.Map.Owner(ledger.Slot(r.Slot))
			switch own := c.number(owner.Shard) == i; {
			case r.State != "owned" && r.State != "moved" || !r.Clean || r.Move != "":
				t.Errorf("%s has slot %d in state %s, clean: %v, move %q", c.shard(i), r.Slot, r.State, r.Clean, r.Move)
			case own != (r.State == "owned"), own && r.Epoch != int64(owner.Epoch), !own && r.Epoch > int64(owner.Epoch):
				t.Errorf("%s has slot %d in state %s at epoch %d, the registry says %s at %d",
					c.shard(i), r.Slot, r.State, r.Epoch, owner.Shard, owner.Epoch)
			}
			owned[r.Slot] = r.State == "owned"
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		conn.Close(context.Background())
		for slot := range placement.Slots {
			if c.number(view.Map.Owner(ledger.Slot(slot)).Shard) == i && !owned[slot] {
				t.Errorf("the registry says that %s owns slot %d, which the shard does not know", c.shard(i), slot)
			}
		}
	}
}

// wantRemoved removes the shards that were drained: they are empty, and their ids are used up.
func (c *scaled) wantRemoved(t *testing.T) {
	t.Helper()
	c.mustNot(t, "owns", "shard", "remove", "--yes", c.shard(0))
	for i := founders; i < allShards; i++ {
		for _, table := range []string{"users", "accounts", "operations", "entries", "sagas"} {
			if n := sql[int64](t, c.cluster, i, `select count(*) from saldo.`+table); n > 0 {
				t.Errorf("%s has %d rows of %s left", c.shard(i), n, table)
			}
		}
		c.must(t, "shard", "remove", "--yes", c.shard(i))
		c.mustNot(t, "choose a new id", "shard", "add", "--id", c.shard(i), "--dsn", c.dsn(i), "--owner-dsn", c.ownerDSN(i))
		c.say(t, "%s is removed", c.shard(i))
	}
}

// users are ids that live in slots all over the space.
func usersAllOver(n int, name string) []string {
	users := make([]string, n)
	for i := range users {
		want := ledger.Slot(i * placement.Slots / n)
		for k := 0; ; k++ {
			users[i] = fmt.Sprintf("%s%d-%d", name, i, k)
			if slot := placement.SlotOf(ledger.UserID(users[i])); slot >= want && slot < want+16 {
				break
			}
		}
	}
	return users
}

// walker reads the history of users page by page, again and again, and keeps what it was told.
type walker struct {
	c       *scaled
	t       *testing.T
	patient bool // 503 is no error

	mu    sync.Mutex
	lines map[account]map[int64]line
	walks int
	moved int // walks during which the user's slot moved
}

// line is one entry as a page tells it.
type line struct {
	Version int64  `json:"version"`
	Amount  int64  `json:"amount"`
	Balance int64  `json:"balance"`
	TxID    string `json:"transaction_id"`
}

// walk reads one user's history from the newest entry to the first.
func (w *walker) walk(ctx context.Context, user string, router, size int) {
	epoch := func() ledger.Epoch { return w.c.view(w.t).Map.Owner(placement.SlotOf(ledger.UserID(user))).Epoch }
	before, f := epoch(), w.c.face(w.t, router)
	next, last := "", int64(0)
	for first := true; first || next != ""; first = false {
		path := fmt.Sprintf("/users/%s/history?page_size=%d", user, size)
		if !first {
			path += "&page=" + strings.NewReplacer("=", "%3D", "+", "%2B", "/", "%2F").Replace(next)
		}
		got, err := f.try(getCase(path))
		for w.patient && err == nil && got.StatusCode == 503 && ctx.Err() == nil {
			time.Sleep(20 * time.Millisecond)
			got, err = f.try(getCase(path))
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil || got.StatusCode != 200 {
			w.t.Errorf("%s of %s: %v %d %s", path, user, err, got.StatusCode, got.Text)
			return
		}
		var page struct {
			Data struct {
				Next      string `json:"next_page"`
				Total     int64  `json:"total"`
				Histories []line `json:"histories"`
			} `json:"data"`
		}
		decode(w.t, got.Text, &page)
		w.mu.Lock()
		of := account{user, "USD"}
		if w.lines[of] == nil {
			w.lines[of] = make(map[int64]line)
		}
		for _, l := range page.Data.Histories {
			if last != 0 && l.Version != last-1 {
				w.t.Errorf("the history of %s goes from entry %d to %d: %s", user, last, l.Version, path)
			}
			if known, ok := w.lines[of][l.Version]; ok && known != l {
				w.t.Errorf("the history of %s had %v and now has %v", user, known, l)
			}
			w.lines[of][l.Version], last = l, l.Version
		}
		w.mu.Unlock()
		next = page.Data.Next
		time.Sleep(5 * time.Millisecond)
	}
	if last > 1 {
		w.t.Errorf("the history of %s ends at entry %d", user, last)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.walks++
	if epoch() != before {
		w.moved++
	}
}

// run walks until ctx ends, those whose slots are moving first.
func (w *walker) run(ctx context.Context, users []string, routers, seed int) {
	for i := seed; ctx.Err() == nil; i++ {
		user := users[i*7%len(users)]
		for _, move := range unfinished(w.c.view(w.t)) {
			under := slices.DeleteFunc(slices.Clone(users), func(id string) bool {
				return !move.Slots.Contains(placement.SlotOf(ledger.UserID(id)))
			})
			if move.Phase.Before() && len(under) > 0 {
				user = under[i%len(under)]
				break
			}
		}
		w.walk(ctx, user, i%routers, 5+i%20)
		if watched() { // time is measured
			time.Sleep(500 * time.Millisecond)
		} else {
			time.Sleep(resting())
		}
	}
}

// check compares what was told with what is there in the end.
func (w *walker) check(end *world, least int) {
	lines := 0
	for of, told := range w.lines {
		entries := end.entries[of]
		for version, l := range told {
			lines++
			if version > int64(len(entries)) {
				w.t.Errorf("the history of %s had entry %d, and %d are there", of.user, version, len(entries))
			} else if e := entries[version-1]; e.amount != l.Amount || e.balance != l.Balance || e.identity.txID != l.TxID {
				w.t.Errorf("the history of %s had %v, and %v is there", of.user, l, e)
			}
		}
	}
	w.t.Logf("%d histories were read page by page, %d of them while they moved: %d entries", w.walks, w.moved, lines)
	if w.moved < least {
		w.t.Errorf("only %d histories moved while they were read", w.moved)
	}
}

func seconds(t *testing.T, fallback int) time.Duration {
	return time.Duration(setting(t, "SALDO_SCALE_SECONDS", fallback)) * time.Second
}

// resting is the rest of clients where nobody watches: most of the processors' time is for the moves.
func resting() time.Duration {
	if watched() {
		return 0
	}
	return 20 * time.Millisecond
}

// watched tells whether a person watches.
func watched() bool { return os.Getenv("SALDO_SCALE_SECONDS") != "" }
