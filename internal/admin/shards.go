package admin

import (
	"context"
	"errors"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// ShardList is all shards.
type ShardList struct {
	Shards []ShardInfo `json:"shards"`
}

// ShardInfo is a shard: what the registry says, and what its server does.
type ShardInfo struct {
	ID           ledger.ShardID `json:"id"`
	State        string         `json:"state"` // active, draining
	DSN          string         `json:"dsn"`
	Weight       int            `json:"weight"`
	Share        float64        `json:"share"` // of all slots, that it should have by its weight
	Slots        int            `json:"slots"` // that it owns
	RegisteredAt time.Time      `json:"registered_at"`
	Timeline     int            `json:"timeline"` // of its adopted primary; 0: not known
	Moves        []ShardMove    `json:"moves"`    // that have not ended
	Driver       string         `json:"driver"`   // the coordinator that drives its sagas; "": nobody, or it is not known

	Answers       bool       `json:"answers"`
	Error         string     `json:"error,omitempty"`   // why it does not; then what follows is missing
	PendingSagas  int64      `json:"pending_sagas"`     // of its own slots
	MorePending   bool       `json:"more_pending"`      // than are counted
	OldestPending *time.Time `json:"oldest_pending_at"` // null: none is pending
	DatabaseBytes int64      `json:"database_bytes"`

	Standing *Standing `json:"standing,omitempty"` // of one shard that was asked for by its id
}

// ShardMove is a move as one of its shards sees it.
type ShardMove struct {
	ID        placement.MoveID `json:"id"`
	Direction string           `json:"direction"` // in, out
	Phase     placement.Phase  `json:"phase"`
	Slots     int              `json:"slots"`
}

// Standing is what the server behind a shard's address is.
type Standing struct {
	Refused     string     `json:"refused,omitempty"` // why routers and coordinators would not use it
	Standby     bool       `json:"standby"`
	Timeline    int        `json:"timeline"` // that it is on
	Adopted     int        `json:"adopted"`  // that its database accepts
	LSN         string     `json:"lsn"`
	Synchronous string     `json:"synchronous_standby_names"`
	Followers   []Follower `json:"followers"`
	Error       string     `json:"error,omitempty"` // why it is not known
}

// Follower is a standby.
type Follower struct {
	Name       string  `json:"name"`
	State      string  `json:"state"`
	Sync       string  `json:"sync"`
	LagBytes   int64   `json:"lag_bytes"`
	LagSeconds float64 `json:"lag_seconds"`
}

func (f *Face) listShards(r *request) (any, error) {
	view, err := f.view()
	if err != nil {
		return nil, err
	}
	return ShardList{Shards: f.shardInfos(r, view)}, nil
}

func (f *Face) shard(r *request) (any, error) {
	view, err := f.view()
	if err != nil {
		return nil, err
	}
	for _, s := range f.shardInfos(r, view) {
		if string(s.ID) == r.path("id") {
			s.Standing = f.standing(r, s.ID)
			return s, nil
		}
	}
	return nil, f.noShard(view, r.path("id"))
}

func (f *Face) noShard(view *View, id string) error {
	err := refusal(codeShardNotFound, "the cluster has no shard %q: it has %v", id, shardIDs(view))
	err.Similar = similar(id, texts(shardIDs(view)))
	return err
}

func (f *Face) standing(ctx context.Context, id ledger.ShardID) *Standing {
	ctx, cancel := context.WithTimeout(ctx, questionTime)
	defer cancel()
	s, err := f.Shards.Standing(ctx, id)
	if err != nil {
		s = Standing{Error: said(err)}
	}
	if s.Followers == nil {
		s.Followers = []Follower{}
	}
	return &s
}

func (f *Face) shardInfos(ctx context.Context, view *View) []ShardInfo {
	weights := 0
	for _, s := range view.Shards {
		if !s.Draining {
			weights += s.Weight
		}
	}
	slots := make(map[ledger.ShardID]int)
	for _, run := range view.Map.Ranges() {
		slots[run.Shard] += int(run.Last-run.First) + 1
	}
	leading, cancel := context.WithTimeout(ctx, questionTime)
	defer cancel()
	leaders, _ := f.Registry.Leaders(leading) // who drives is not worth failing
	counted := f.sampler.latest(ctx)
	infos := make([]ShardInfo, 0, len(view.Shards))
	for _, s := range view.Shards {
		info := ShardInfo{
			ID: s.ID, State: "active", DSN: s.DSN, Weight: s.Weight, Slots: slots[s.ID],
			RegisteredAt: s.RegisteredAt, Timeline: s.Timeline,
			Moves: []ShardMove{}, Driver: leaders[sagaElection+string(s.ID)],
		}
		if s.Draining {
			info.State = "draining"
		} else {
			info.Share = float64(s.Weight) / float64(weights)
		}
		for _, move := range view.Moves {
			direction := map[ledger.ShardID]string{move.Source: "out", move.Target: "in"}[s.ID]
			if direction != "" && !move.Phase.Ended() {
				info.Moves = append(info.Moves, ShardMove{
					ID: move.ID, Direction: direction, Phase: move.Phase, Slots: len(move.Slots),
				})
			}
		}
		switch c := counted.of(s.ID); {
		case c.err != nil:
			info.Error = said(c.err)
		default:
			info.Answers, info.PendingSagas, info.DatabaseBytes = true, min(c.Pending, ledger.MaxPending), c.DatabaseBytes
			info.MorePending = c.Pending > ledger.MaxPending
			info.OldestPending = optional(c.OldestPending)
		}
		infos = append(infos, info)
	}
	return infos
}

// said is what an operator is told of an error of a shard or the registry.
func said(err error) string {
	var refused *ledger.Error
	switch {
	case errors.As(err, &refused):
		return refused.Message
	case errors.Is(err, context.DeadlineExceeded):
		return "it has not answered in time"
	}
	return "it could not be asked"
}

// optional is nil for no time.
func optional(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func texts[T ~string](values []T) []string {
	all := make([]string, len(values))
	for i, value := range values {
		all[i] = string(value)
	}
	return all
}
