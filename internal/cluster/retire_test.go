package cluster

import (
	"errors"
	"slices"
	"testing"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// An id is registered or retired, never both.
func TestRetire(t *testing.T) {
	w := newWorld(t)
	c, config := w.founded(2)
	for range 2 {
		if err := c.Retire(w.ctx, config, "s3"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Register(w.ctx, config, Shard{ID: "s3", DSN: "postgres://nowhere/x"}); !errors.Is(err, ErrRetired) {
		t.Errorf("registered a retired id: %v", err)
	}
	if err := c.Retire(w.ctx, config, "s1"); !errors.Is(err, ErrRegistered) {
		t.Errorf("retired a shard: %v", err)
	}
	other := config
	other.raw = "another"
	if err := c.Retire(w.ctx, other, "s4"); !errors.Is(err, ErrMismatch) {
		t.Errorf("retired an id of another cluster: %v", err)
	}
	if err := c.Retire(w.ctx, config, "a/b"); err == nil {
		t.Error("retired what is no id")
	}
	retired, err := c.Retired(w.ctx)
	if err != nil || !slices.Equal(retired, []ledger.ShardID{"s3"}) {
		t.Errorf("retired are %v, %v", retired, err)
	}
}
