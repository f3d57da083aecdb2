package operatortest

import (
	"errors"
	"slices"
	"testing"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/operator"
)

// World is a cluster that nobody has created yet, and empty databases for its shards.
type World struct {
	Ledger   operator.Ledger
	Database func() (dsn string)                 // a new one, empty
	Down     func(dsn string)                    // it does not answer any more
	Sagas    func(id ledger.ShardID, dsn string) // a transfer that has not ended is there
}

// Conform checks that a Ledger does what its contract says.
func Conform(t *testing.T, w World) {
	t.Helper()
	c := &conform{T: t, World: w, at: make(map[ledger.ShardID]string)}
	c.begins()
	c.founds()
	c.retires()
	c.drains()
	c.removes()
}

type conform struct {
	*testing.T
	World
	at map[ledger.ShardID]string // databases
}

func (c *conform) look() *operator.Registry {
	c.Helper()
	r, err := c.Ledger.Look(c.Context())
	if err != nil {
		c.Fatal(err)
	}
	return r
}

func (c *conform) does(what string, err error) {
	c.Helper()
	if err != nil {
		c.Fatalf("%s: %v", what, err)
	}
}

func (c *conform) fails(what string, err error) {
	c.Helper()
	if err == nil {
		c.Errorf("%s: no error", what)
	}
}

func (c *conform) refuses(what string, err error) {
	c.Helper()
	var refusal *operator.Refusal
	if !errors.As(err, &refusal) {
		c.Errorf("%s: %v, which is no refusal", what, err)
	}
}

func (c *conform) join(id ledger.ShardID) error {
	if c.at[id] == "" {
		c.at[id] = c.Database()
	}
	return c.Ledger.Join(c.Context(), id, c.at[id])
}

func (c *conform) begins() {
	if r := c.look(); r.Created || r.Founded || len(r.Shards) > 0 {
		c.Fatalf("before anything: %+v", r)
	}
	c.fails("join what is not there", c.join("s1"))
	c.does("create", c.Ledger.Create(c.Context(), 2))
	c.does("create again", c.Ledger.Create(c.Context(), 5))
	if r := c.look(); !r.Created || r.Cluster == "" || r.Initial != 2 || r.Founded || len(r.Shards) > 0 {
		c.Fatalf("created: %+v", r)
	}
}

func (c *conform) founds() {
	c.does("join s1", c.join("s1"))
	c.does("join s1 again", c.join("s1"))
	c.fails("drain before the founding", c.Ledger.Drain(c.Context(), "s1"))
	if r := c.look(); r.Founded || len(r.Shards) != 1 || r.Shards["s1"].Slots != 0 || r.Shards["s1"].Address != c.at["s1"] {
		c.Fatalf("with one shard: %+v", r)
	}
	c.does("join s2", c.join("s2"))
	if r := c.look(); !r.Founded || r.Shards["s1"].Slots != slots/2 || r.Shards["s2"].Slots != slots/2 || r.Left != 0 {
		c.Fatalf("with both: %+v", r)
	}
	c.does("join s3", c.join("s3"))
	if r := c.look(); r.Shards["s3"].Slots != 0 || r.Left == 0 {
		c.Fatalf("with a third one: %+v", r)
	}
	for id, want := range map[ledger.ShardID]int{"s1": slots / 2, "s3": 0} {
		if a, err := c.Ledger.Ask(c.Context(), id); err != nil || a.Slots != want || a.Sagas != 0 || a.Uncleaned != 0 {
			c.Errorf("%s says %+v, %v", id, a, err)
		}
	}
	_, err := c.Ledger.Ask(c.Context(), "s9")
	c.fails("ask nobody", err)
	c.refuses("another shard's database", c.Ledger.Join(c.Context(), "s4", c.at["s1"]))
	c.refuses("another database for a shard", c.Ledger.Join(c.Context(), "s1", c.Database()))
}

func (c *conform) retires() {
	c.does("retire s9", c.Ledger.Retire(c.Context(), "s9"))
	c.does("retire s9 again", c.Ledger.Retire(c.Context(), "s9"))
	c.fails("retire a shard", c.Ledger.Retire(c.Context(), "s1"))
	c.refuses("join a retired one", c.join("s9"))
	if r := c.look(); !slices.Equal(r.Retired, []ledger.ShardID{"s9"}) || len(r.Shards) != 3 {
		c.Errorf("after that: %+v", r)
	}
}

func (c *conform) drains() {
	for range 2 {
		c.does("drain s3", c.Ledger.Drain(c.Context(), "s3"))
	}
	if r := c.look(); !r.Shards["s3"].Draining || r.Shards["s1"].Draining {
		c.Errorf("draining: %+v", r)
	}
	for range 2 {
		c.does("activate s3", c.Ledger.Activate(c.Context(), "s3"))
	}
	if r := c.look(); r.Shards["s3"].Draining {
		c.Errorf("active: %+v", r)
	}
	c.fails("drain nobody", c.Ledger.Drain(c.Context(), "s9"))
	c.fails("activate nobody", c.Ledger.Activate(c.Context(), "s9"))
}

func (c *conform) removes() {
	c.fails("remove an active one", c.Ledger.Remove(c.Context(), "s3"))
	c.does("drain s3", c.Ledger.Drain(c.Context(), "s3"))
	c.does("drain s2", c.Ledger.Drain(c.Context(), "s2"))
	c.fails("drain the last one", c.Ledger.Drain(c.Context(), "s1"))
	c.fails("remove one with slots", c.Ledger.Remove(c.Context(), "s2"))
	c.does("remove s3", c.Ledger.Remove(c.Context(), "s3"))
	c.fails("remove nobody", c.Ledger.Remove(c.Context(), "s3"))
	c.refuses("join again", c.join("s3"))
	if r := c.look(); !slices.Equal(r.Retired, []ledger.ShardID{"s3", "s9"}) || len(r.Shards) != 2 {
		c.Errorf("after that: %+v", r)
	}
	c.does("join s5", c.join("s5"))
	c.does("join s6", c.join("s6"))
	c.does("drain s5", c.Ledger.Drain(c.Context(), "s5"))
	c.does("drain s6", c.Ledger.Drain(c.Context(), "s6"))
	c.Sagas("s5", c.at["s5"])
	if a, err := c.Ledger.Ask(c.Context(), "s5"); err != nil || a.Sagas != 1 {
		c.Errorf("a transfer that has not ended: %+v, %v", a, err)
	}
	c.fails("remove one with a transfer", c.Ledger.Remove(c.Context(), "s5"))
	c.Down(c.at["s6"])
	_, err := c.Ledger.Ask(c.Context(), "s6")
	c.fails("ask one that is down", err)
	c.fails("remove one that is down", c.Ledger.Remove(c.Context(), "s6"))
	if r := c.look(); len(r.Shards) != 4 {
		c.Errorf("after that: %+v", r)
	}
}
