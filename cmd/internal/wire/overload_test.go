package wire

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/saldo-ledger/saldo/internal/api"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/internal/routing"
)

// TestOverload offers more than the shards can do to a real server, on a clock that waits for nobody.
func TestOverload(t *testing.T) {
	t.Parallel()
	const (
		target   = 200 * time.Millisecond
		capacity = 800 // transfers in a second, of a shard
	)
	cases := map[string]func(t *testing.T, c *crowd){
		"much more than the shard can do": func(t *testing.T, c *crowd) {
			calm := c.offer("/transfers", capacity/2, time.Second, "s1")
			calm.allAccepted(t)
			for _, times := range []int{2, 10} {
				over := c.offer("/transfers", times*capacity, time.Second, "s1")
				t.Logf("at %d times the capacity: %v", times, over)
				if accepted := len(over.accepted); accepted < capacity*9/10 {
					t.Errorf("at %d times the capacity of %d only %d are accepted", times, capacity, accepted)
				}
				if got := p99(over.accepted); got > 2*target {
					t.Errorf("at %d times the capacity the p99 of what is accepted is %v", times, got)
				}
				if len(over.refused) == 0 || over.refused[len(over.refused)-1] > target {
					t.Errorf("at %d times the capacity what is refused is: %v", times, over)
				}
			}
			time.Sleep(8 * time.Second)
			after := c.offer("/transfers", capacity/2, time.Second, "s1")
			after.allAccepted(t)
			if p99(after.accepted) > p99(calm.accepted) {
				t.Errorf("after the overload the p99 is %v; before it was %v", p99(after.accepted), p99(calm.accepted))
			}
		},
		"a shard that stands still keeps nobody from another": func(t *testing.T, c *crowd) {
			c.shards["s2"].stuck = true
			var still, well tally
			both(func() { still = c.offer("/transfers", capacity, time.Second, "s2") },
				func() { well = c.offer("/transfers", capacity*3/4, time.Second, "s1") })
			well.allAccepted(t)
			if p99(well.accepted) > target {
				t.Errorf("beside a shard that stands still another takes %v", p99(well.accepted))
			}
			if len(still.accepted) > 0 || still.refused[len(still.refused)/2] > target {
				t.Errorf("of a shard that stands still: %v", still)
			}
		},
		"reads beside too many transfers": func(t *testing.T, c *crowd) {
			var reads, transfers tally
			both(func() { transfers = c.offer("/transfers", 3*capacity, time.Second, "s1") },
				func() { reads = c.offer("/users/%s/balance", capacity/2, time.Second, "s1") })
			reads.allAccepted(t)
			if len(transfers.refused) == 0 || p99(reads.accepted) > target {
				t.Errorf("transfers: %v; reads: %v", transfers, reads)
			}
		},
		"many wait for a slot that moves": func(t *testing.T, c *crowd) {
			var reads, transfers, others tally
			c.shards["s1"].fenced.Store(true)
			time.AfterFunc(time.Second, func() { c.shards["s1"].fenced.Store(false) })
			var all sync.WaitGroup
			all.Go(func() { transfers = c.offer("/transfers", capacity*3/4, time.Second, "s1") })
			all.Go(func() { reads = c.offer("/users/%s/balance", capacity*3/4, time.Second, "s1") })
			time.Sleep(500 * time.Millisecond)
			others = c.offer("/transfers", capacity/2, time.Second, "s2")
			all.Wait()
			for _, y := range []tally{reads, transfers, others} {
				y.allAccepted(t)
			}
			if p99(transfers.accepted) > 2*time.Second || p99(others.accepted) > target {
				t.Errorf("transfers: %v; of another slot: %v", transfers, others)
			}
			if n := c.shards["s1"].refused.Load(); n > 10 {
				t.Errorf("the shard was asked %d times in vain", n)
			}
		},
		"too many reads": func(t *testing.T, c *crowd) {
			var reads, transfers tally
			both(func() { reads = c.offer("/users/%s/balance", 3*capacity, time.Second, "s1") },
				func() { transfers = c.offer("/transfers", capacity/2, time.Second, "s1") })
			transfers.allAccepted(t)
			if len(reads.accepted) < capacity*9/10 || p99(reads.accepted) > 2*target || len(reads.refused) == 0 {
				t.Errorf("reads: %v", reads)
			}
		},
	}
	for name, run := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { run(t, newCrowd(t, target, capacity)) })
		})
	}
}

// crowd is the clients of a server over two shards.
type crowd struct {
	t      *testing.T
	client *http.Client
	users  map[ledger.ShardID]ledger.UserID // one on each shard
	shards map[ledger.ShardID]*slowShard
}

func newCrowd(t *testing.T, target time.Duration, perSecond int) *crowd {
	m, err := placement.NewMap(1, placement.Found([]ledger.ShardID{"s1", "s2"}))
	if err != nil {
		t.Fatal(err)
	}
	c := &crowd{t: t, users: make(map[ledger.ShardID]ledger.UserID), shards: make(map[ledger.ShardID]*slowShard)}
	world := fixedCluster{m: m, shards: make(map[ledger.ShardID]routing.Shard)}
	for _, id := range m.Shards() {
		c.shards[id] = newSlowShard(perSecond)
		world.shards[id] = limit(c.shards[id], target)
	}
	for n := 0; len(c.users) < 2; n++ {
		id := ledger.UserID(fmt.Sprintf("user-%d", n))
		c.users[m.OwnerOf(id).Shard] = id
	}

	log := slog.New(slog.DiscardHandler)
	router := routing.New(world, routing.Config{}, log)
	listener := pipes{arrived: make(chan net.Conn), closed: make(chan struct{})}
	server := api.NewServer(api.New(api.Config{
		Ledger: router, Health: health{}, Currency: "USD", Timeout: 8 * time.Second, MaxRequests: 100_000, Log: log,
	}), log)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	transport := &http.Transport{
		DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return listener.dial(ctx) },
		MaxIdleConnsPerHost: 100_000,
	}
	c.client = &http.Client{Transport: transport}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		serving.Wait()
		router.Close()
	})
	return c
}

// tally is what became of requests: how long they took, sorted.
type tally struct{ accepted, refused []time.Duration }

func (y tally) String() string {
	s := fmt.Sprintf("%d accepted, p99 %v; %d refused", len(y.accepted), p99(y.accepted), len(y.refused))
	if len(y.refused) > 0 {
		s += fmt.Sprintf(", p99 %v", p99(y.refused))
	}
	return s
}

func (y tally) allAccepted(t *testing.T) {
	t.Helper()
	if len(y.refused) > 0 {
		t.Errorf("of what the shard can do: %v", y)
	}
}

func p99(sorted []time.Duration) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[len(sorted)*99/100]
}

// offer makes requests of a user of the shard at a rate, whatever becomes of them, and waits for all.
func (c *crowd) offer(path string, perSecond int, during time.Duration, shard ledger.ShardID) (y tally) {
	var (
		mu       sync.Mutex
		requests sync.WaitGroup
	)
	for n := range int(during.Seconds() * float64(perSecond)) {
		requests.Go(func() {
			begun := time.Now()
			accepted := c.request(path, c.users[shard], n)
			mu.Lock()
			defer mu.Unlock()
			if took := time.Since(begun); accepted {
				y.accepted = append(y.accepted, took)
			} else {
				y.refused = append(y.refused, took)
			}
		})
		time.Sleep(time.Second / time.Duration(perSecond))
	}
	requests.Wait()
	slices.Sort(y.accepted)
	slices.Sort(y.refused)
	return y
}

func both(f, g func()) {
	var group sync.WaitGroup
	group.Go(f)
	group.Go(g)
	group.Wait()
}

// request tells whether a request was accepted.
func (c *crowd) request(path string, user ledger.UserID, n int) bool {
	var (
		response *http.Response
		err      error
	)
	if path == "/transfers" {
		body := fmt.Sprintf(`{"source":%q,"destination":%q,"amount":1,"transaction_id":"t%d"}`, user, user, n)
		response, err = c.client.Post("http://saldo"+path, "application/json", strings.NewReader(body))
	} else {
		response, err = c.client.Get("http://saldo" + fmt.Sprintf(path, user))
	}
	if err != nil {
		c.t.Error(err)
		return false
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		c.t.Error(err)
	}
	switch response.StatusCode {
	case 200, 201:
		return true
	case 503:
		if response.Header.Get("Retry-After") == "" {
			c.t.Errorf("a refusal does not say when to try again: %v %s", response.Header, text)
		}
	default:
		c.t.Errorf("answer is %s %s", response.Status, text)
	}
	return false
}

// slowShard does each call in the same time, and so many at once.
type slowShard struct {
	routing.Shard // nil: what is not overridden is not called
	writes, reads chan struct{}
	stuck         bool // it answers nothing for a second, and then that nothing was recorded
	fenced        atomic.Bool
	refused       atomic.Int64 // calls
}

const callTime = 10 * time.Millisecond

func newSlowShard(perSecond int) *slowShard {
	atOnce := int(callTime.Seconds() * float64(perSecond))
	return &slowShard{writes: make(chan struct{}, atOnce), reads: make(chan struct{}, atOnce)}
}

func (s *slowShard) Submit(_ context.Context, op ledger.Operation, _ ...placement.Hold) (ledger.Result, error) {
	if s.stuck {
		time.Sleep(time.Second)
		return ledger.Result{}, ledger.Unavailable("the shard is down: nothing was recorded, try again", nil)
	}
	if err := s.refusal(op.Initiator); err != nil {
		return ledger.Result{}, err
	}
	work(s.writes)
	return ledger.Result{Recorded: ledger.Recorded{Operation: op}}, nil
}

func (s *slowShard) Balance(_ context.Context, user ledger.UserID, _ ledger.Currency) (ledger.Account, error) {
	if err := s.refusal(user); err != nil {
		return ledger.Account{}, err
	}
	work(s.reads)
	return ledger.Account{}, nil
}

func (s *slowShard) refusal(user ledger.UserID) error {
	if !s.fenced.Load() {
		return nil
	}
	s.refused.Add(1)
	return fenced(placement.SlotOf(user))
}

func (s *slowShard) Check(_ context.Context, holds []placement.Hold) error {
	if s.fenced.Load() {
		return fenced(holds[0].Slot)
	}
	return nil
}

func fenced(slot ledger.Slot) error {
	return &placement.OwnershipError{Refusals: []placement.Refusal{{Slot: slot, Answer: placement.Fenced}}}
}

func work(places chan struct{}) {
	places <- struct{}{}
	time.Sleep(callTime)
	<-places
}

// fixedCluster is a cluster in which nothing changes.
type fixedCluster struct {
	m      *placement.Map
	shards map[ledger.ShardID]routing.Shard
}

func (c fixedCluster) Map() *placement.Map                           { return c.m }
func (c fixedCluster) Changed() <-chan struct{}                      { return nil }
func (c fixedCluster) Refresh(context.Context, *placement.Map) error { return nil }
func (c fixedCluster) Shard(id ledger.ShardID) (s routing.Shard, ok bool) {
	s, ok = c.shards[id]
	return s, ok
}

// pipes is a listener in memory: on a test's own clock there is no network.
type pipes struct {
	arrived chan net.Conn
	closed  chan struct{}
}

func (p pipes) dial(ctx context.Context) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case p.arrived <- server:
		return client, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.arrived:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p pipes) Close() error   { close(p.closed); return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }
