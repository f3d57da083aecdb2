package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/saldo-ledger/saldo/internal/admin"
)

type topCommand struct {
	desk     `embed:""`
	Interval time.Duration `name:"interval" default:"1s" help:"Between two looks, at least 1s."`
	Once     bool          `name:"once" help:"Look once, print and end. This is what is done where there is no terminal."`
	JSON     bool          `name:"json" help:"Look once and print what was seen as JSON, for machines."`
}

// Help says what the columns mean.
func (c *topCommand) Help() string {
	return "q ends it. OPS/S are operations that a shard's Postgres has recorded, SAGAS/S the transfers to other shards among them, by " +
		"its own statistics, which run up to a second late. PENDING are transfers that have not ended, OLDEST is how long the oldest one of them " +
		"has waited. QUEUE, WAIT, COMMIT and BATCH are those of the routers' lanes to the shard: operations that wait for a writer, how long " +
		"and how long the commit takes (99 of 100 take less), and how many are committed together. REQ/S, 5XX/S, P50 and P99 are those of " +
		"requests to a router. SIZE is that of the database, FOR how long ago a move was planned or a transfer begun."
}

// Validate is called by the flag parser.
func (c *topCommand) Validate() error {
	if c.Interval < time.Second {
		return fmt.Errorf("--interval is %v, not 1s or more", c.Interval)
	}
	return nil
}

func (c *topCommand) Run(ctx context.Context, to streams) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	if !c.JSON && !c.Once && isTerminal(to.out) {
		return watchTop(ctx, client, c.Interval, to)
	}
	seen, err := lookAround(ctx, client)
	if err != nil {
		return helpful(err)
	}
	if c.JSON {
		return printJSON(to.out, seen)
	}
	_, err = fmt.Fprintln(to.out, showTop(seen, page{}))
	return err
}

// sight is what saldo top shows of a cluster.
type sight struct {
	At      time.Time         `json:"at"`
	Cluster admin.Cluster     `json:"cluster"`
	Shards  admin.ShardList   `json:"shards"`
	Figures admin.Figures     `json:"figures"`
	Moves   admin.MoveList    `json:"moves"`
	Sagas   admin.SagaList    `json:"sagas"` // the oldest that are pending
	Audit   admin.AuditStatus `json:"audit"`
}

// lookAround asks for everything at once.
func lookAround(ctx context.Context, client *admin.Client) (seen sight, err error) {
	seen.At = time.Now().UTC()
	// Whoever may not ask, or cannot, is told so once.
	if seen.Cluster, err = client.Cluster(ctx); err != nil {
		return seen, err
	}
	var (
		asking sync.WaitGroup
		errs   [5]error
	)
	asking.Go(func() { seen.Shards, errs[0] = client.Shards(ctx) })
	asking.Go(func() { seen.Figures, errs[1] = client.Figures(ctx) })
	asking.Go(func() { seen.Moves, errs[2] = client.Moves(ctx) })
	asking.Go(func() { seen.Sagas, errs[3] = client.Sagas(ctx, url.Values{"limit": {"10"}, "older_than": {"1s"}}) })
	asking.Go(func() { seen.Audit, errs[4] = client.Audit(ctx) })
	asking.Wait()
	return seen, errors.Join(errs[:]...)
}

// watchTop shows what is going on until the person says q or ctx ends.
func watchTop(ctx context.Context, client *admin.Client, interval time.Duration, to streams) error {
	on, err := openScreen(to)
	if err != nil {
		return err
	}
	defer on.close()
	var looking sync.WaitGroup
	defer looking.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	looks := make(chan looked, 1)
	look := func() {
		looking.Go(func() {
			seen, err := lookAround(ctx, client)
			looks <- looked{seen, err}
		})
	}
	look()
	t := top{client: client}
	var next <-chan time.Time
	for {
		on.draw(t.text(on.page()))
		select {
		case <-ctx.Done():
			return nil // it was told to end
		case key := <-on.keys:
			if ends(key) {
				return nil
			}
		case l := <-looks:
			t.note(l)
			next = time.After(interval)
		case <-next:
			next = nil
			look()
		}
	}
}

// looked is what came of a look.
type looked struct {
	seen sight
	err  error
}

// top is what the screen is about.
type top struct {
	client  *admin.Client
	seen    *sight // nil until something was seen
	failure error  // of the latest look
}

func (t *top) note(l looked) {
	if t.failure = l.err; l.err == nil {
		t.seen = &l.seen
	}
}

// text is what the screen shows: what was seen last, also while nothing can be seen.
func (t *top) text(p page) string {
	switch {
	case t.failure != nil:
		p.problem = helpful(t.failure).Error()
	case t.seen == nil:
		return p.cut("looking at the cluster behind " + t.client.URL + " …")
	}
	if t.seen == nil {
		return p.cut("! " + strings.ReplaceAll(p.problem, "\n", "\n! ") + "\ntrying again; q ends it")
	}
	return showTop(*t.seen, p)
}
