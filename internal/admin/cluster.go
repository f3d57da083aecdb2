package admin

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// Cluster is the cluster as a whole.
type Cluster struct {
	UID           string    `json:"uid"`
	CreatedAt     time.Time `json:"created_at"`
	Slots         int       `json:"slots"`
	Founded       bool      `json:"founded"`        // its slots are spread
	InitialShards int       `json:"initial_shards"` // for which the founding waits; 0: until none has joined for a while
	Registry      Contact   `json:"registry"`
	Shards        int       `json:"shards"`
	Draining      int       `json:"draining"` // of the shards
	Moves         int       `json:"moves"`    // that have not ended
	// Leaders, Routers and Coordinators are empty, and Problem says why, if the registry does not answer now.
	Leaders      []Leader  `json:"leaders"`
	Routers      []Process `json:"routers"`
	Coordinators []Process `json:"coordinators"`
	Problem      string    `json:"problem,omitempty"`
	AnsweredBy   string    `json:"answered_by"` // the coordinator
	Version      string    `json:"version"`     // of that
}

// Contact is how well this coordinator follows the registry.
type Contact struct {
	Revision  int64     `json:"revision"`
	Connected bool      `json:"connected"`
	Contact   time.Time `json:"contact"`
	Problem   string    `json:"problem,omitempty"` // why the map stands still
}

// Leader is who was elected for what.
type Leader struct {
	Election    string         `json:"election"`
	Home        ledger.ShardID `json:"home,omitempty"` // whose sagas it drives
	Coordinator string         `json:"coordinator"`
}

// Process is a router or a coordinator that has announced itself.
type Process struct {
	Name      string    `json:"name"`
	Address   string    `json:"address"`
	Version   string    `json:"version"`
	StartedAt time.Time `json:"started_at"`
}

func (f *Face) view() (*View, error) {
	view := f.Registry.View()
	if view == nil {
		return nil, refusal(codeUnavailable,
			"this coordinator has not reached its cluster yet: is etcd up, and has a shard been added?")
	}
	return view, nil
}

func (f *Face) cluster(r *request) (any, error) {
	view, err := f.view()
	if err != nil {
		return nil, err
	}
	c := Cluster{
		UID: view.UID, CreatedAt: view.CreatedAt, Slots: placement.Slots,
		Founded: view.Map.Complete(), InitialShards: view.InitialShards, Shards: len(view.Shards),
		Registry: Contact{
			Revision: view.Revision, Connected: view.Connected, Contact: view.Contact.UTC(), Problem: view.Problem,
		},
		Leaders: []Leader{}, Routers: []Process{}, Coordinators: []Process{}, AnsweredBy: f.Name, Version: f.Version,
	}
	for _, s := range view.Shards {
		if s.Draining {
			c.Draining++
		}
	}
	for _, move := range view.Moves {
		if !move.Phase.Ended() {
			c.Moves++
		}
	}
	if err := f.readProcesses(r, &c); err != nil {
		c.Problem = "the registry does not answer now: who leads and who runs is not known"
	}
	return c, nil
}

// sagaElection is how the elections of those who drive a home's sagas begin.
const sagaElection = "sagas."

func (f *Face) readProcesses(ctx context.Context, c *Cluster) error {
	ctx, cancel := context.WithTimeout(ctx, questionTime)
	defer cancel()
	leaders, err := f.Registry.Leaders(ctx)
	if err != nil {
		return err
	}
	for election, coordinator := range leaders {
		l := Leader{Election: election, Coordinator: coordinator}
		if len(election) > len(sagaElection) && election[:len(sagaElection)] == sagaElection {
			l.Home = ledger.ShardID(election[len(sagaElection):])
		}
		c.Leaders = append(c.Leaders, l)
	}
	slices.SortFunc(c.Leaders, func(a, b Leader) int { return cmp.Compare(a.Election, b.Election) })
	routers, err := f.Registry.Routers(ctx)
	if err != nil {
		return err
	}
	coordinators, err := f.Registry.Coordinators(ctx)
	if err != nil {
		return err
	}
	c.Routers, c.Coordinators = append(c.Routers, routers...), append(c.Coordinators, coordinators...)
	return nil
}

// Unanswered is a shard that could not be asked, and why.
type Unanswered struct {
	Shard ledger.ShardID `json:"shard"`
	Error string         `json:"error"`
}

// askAll asks shards at once, each with a limit to its time. It returns the answers, and who has not answered, in the order
// of the ids.
func askAll[T any](
	ctx context.Context, f *Face, limit time.Duration, ids []ledger.ShardID, ask func(context.Context, Shard) (T, error),
) (map[ledger.ShardID]T, []Unanswered) {
	var (
		mu         sync.Mutex
		asking     sync.WaitGroup
		answers    = make(map[ledger.ShardID]T)
		unanswered = []Unanswered{}
	)
	for _, id := range ids {
		asking.Go(func() {
			answer, err := askOne(ctx, f, limit, id, ask)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				unanswered = append(unanswered, Unanswered{Shard: id, Error: said(err)})
				return
			}
			answers[id] = answer
		})
	}
	asking.Wait()
	slices.SortFunc(unanswered, func(a, b Unanswered) int { return cmp.Compare(a.Shard, b.Shard) })
	return answers, unanswered
}

var errNotOpen error = &ledger.Error{Code: ledger.CodeUnavailable, Message: "it is not open in this coordinator yet"}

func askOne[T any](
	ctx context.Context, f *Face, limit time.Duration, id ledger.ShardID, ask func(context.Context, Shard) (T, error),
) (answer T, err error) {
	s, ok := f.Shards.Shard(id)
	if !ok {
		return answer, errNotOpen
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return ask(ctx, s)
}

func shardIDs(view *View) []ledger.ShardID {
	ids := make([]ledger.ShardID, len(view.Shards))
	for i, s := range view.Shards {
		ids[i] = s.ID
	}
	return ids
}
