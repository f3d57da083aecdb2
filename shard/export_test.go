package shard

import (
	"testing"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// Batches lets a test say what stands together in a batch, and in which order.
type Batches struct{ writer *writer }

func (s *Shard) Batches() *Batches { return &Batches{writer: &writer{lane: s.lane}} }

// Setting reads a setting of a writer's session.
func (b *Batches) Setting(t testing.TB, name string) (value string) {
	t.Helper()
	if err := b.writer.connect(nil); err != nil {
		t.Fatal(err)
	}
	if err := b.writer.conn.QueryRow(t.Context(), "select current_setting($1)", name).Scan(&value); err != nil {
		t.Fatal(err)
	}
	return value
}

// ExpectsReplays tells whether the lane looks operations up before it records them.
func (s *Shard) ExpectsReplays() bool { return s.lane.replays.expected() }

// Quiet makes the lane do without, as if it had met no replay for long.
func (s *Shard) Quiet() { s.lane.replays.quiet.Store(quietBatches) }

const QuietBatches = quietBatches

// Migrations are the ones that Migrate applies; MigrateBy applies others.
var (
	Migrations = migrations
	MigrateBy  = migrate
)

// Knows tells whether the lane has seen that the shard owns the slots as held.
func (s *Shard) Knows(holds ...placement.Hold) bool {
	_, ok := s.lane.slots.seen(holds)
	return ok
}

func (b *Batches) Close() { b.writer.disconnect() }

// Submit does the operations as one batch.
func (b *Batches) Submit(ops []ledger.Operation, holds func(ledger.Operation) []placement.Hold) (results []ledger.Result, errs []error) {
	items := make([]item, len(ops))
	for i := range ops {
		items[i].wish, items[i].holds = wish{op: &ops[i]}, holds(ops[i])
	}
	for _, a := range b.settle(items) {
		results, errs = append(results, a.result), append(errs, a.err)
	}
	return results, errs
}

// Complete ends the sagas as one batch.
func (b *Batches) Complete(ids []ledger.Identity, hold func(ledger.UserID) placement.Hold) (states []ledger.SagaState, errs []error) {
	items := make([]item, len(ids))
	for i, id := range ids {
		items[i].wish, items[i].holds = wish{end: &ids[i]}, []placement.Hold{hold(id.Initiator)}
	}
	for _, a := range b.settle(items) {
		states, errs = append(states, a.state), append(errs, a.err)
	}
	return states, errs
}

func (b *Batches) settle(items []item) []answer {
	c := &call{items: items, done: make(chan struct{})}
	c.left.Store(int32(len(items)))
	taken, answers := make([]*item, len(items)), make([]answer, len(items))
	for i := range items {
		taken[i] = &items[i]
		taken[i].call = c
		taken[i].stage.Store(stageTaken)
		if err := taken[i].prepare(); err != nil {
			panic(err)
		}
	}
	if len(items) > 0 {
		b.writer.settle(taken)
		<-c.done
	}
	for i := range items {
		answers[i] = items[i].answer
	}
	return answers
}

// Adoptable says why a server as it stands must not be adopted, given what its database was marked with.
func Adoptable(s Standing, adoption string, known Known) error {
	s.adoption = adoption
	return s.adoptable(s.Cluster, s.Shard, known)
}
