package operator

import (
	"context"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// Ledger is one cluster: its registry in etcd, and its shards' databases. Each write is one that the registry decides, is
// idempotent, and leaves open whether it was done if it fails: look again. Only Join tells a *Refusal from other errors.
type Ledger interface {
	// Look reads the registry, linearizably. A cluster that nobody has created is a Registry that says so, and no error.
	Look(ctx context.Context) (*Registry, error)
	// Create creates the cluster, to be founded when so many shards are there. One that is there stays as it is.
	Create(ctx context.Context, shards int) error
	// Join migrates, enrolls and registers the database at dsn, which is how the services reach it, without a password. It
	// founds the cluster if that is due. A database that cannot be this shard is refused and left as it is.
	Join(ctx context.Context, id ledger.ShardID, dsn string) error
	// Retire makes sure that an id that is not registered never will be.
	Retire(ctx context.Context, id ledger.ShardID) error
	// Drain says that a shard is to have no slots. The last one that may have slots is refused.
	Drain(ctx context.Context, id ledger.ShardID) error
	// Activate takes that back.
	Activate(ctx context.Context, id ledger.ShardID) error
	// Remove forgets a shard that drains and retires its id, if the registry and its own database both show no slot, no
	// copy, no move and no transfer that has not ended.
	Remove(ctx context.Context, id ledger.ShardID) error
	// Ask asks a registered shard's own database what it holds. An error says why it did not answer as that shard.
	Ask(ctx context.Context, id ledger.ShardID) (Answer, error)
	// Adopt makes the server behind a shard's address its primary: see package shard.
	Adopt(ctx context.Context, id ledger.ShardID) error
	// Close ends the connections.
	Close() error
}

// Refusal is an error of a Ledger that has changed nothing, and comes again until something else changes.
type Refusal struct{ Err error }

func (r *Refusal) Error() string { return r.Err.Error() }
func (r *Refusal) Unwrap() error { return r.Err }

// Registry is a cluster as its registry knows it.
type Registry struct {
	Created bool   // there is a cluster; all else is zero if not
	Cluster string // its uid
	Initial int    // for so many shards its founding waits; 0: not said
	Founded bool   // its slots have owners
	Shards  map[ledger.ShardID]Shard
	Retired []ledger.ShardID // sorted; their ids are never used again
	Left    int              // slots that have yet to move, until every shard has what it should
	Moving  int              // of these, those for which a move is planned or under way
}

// Shard is a registered shard.
type Shard struct {
	Address  string // its DSN, without a secret
	Draining bool
	Slots    int // that it owns
	Moves    int // with it that have not ended
}

// Answer is what a shard's own database says.
type Answer struct {
	Slots     int // owned, fenced or coming
	Uncleaned int // slots of which it has a copy that is not its own
	Sagas     int // transfers between shards that have not ended
}

// NotAdoptedError is an error of Ask: the server behind the shard's address is a new primary, which accepts nothing until it
// is adopted.
type NotAdoptedError struct {
	Timeline int
	Lost     []string // what is known to be lost; no line is no promise
	Unknown  string   // why it is not known what is lost; "" if it is
}

func (e *NotAdoptedError) Error() string {
	return "its Postgres has failed over, and the new primary accepts nothing until it is adopted"
}
