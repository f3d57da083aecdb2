package shard_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
	"github.com/saldo-ledger/saldo/shard"
)

// A check is answered as an act would be.
func TestCheck(t *testing.T) {
	t.Parallel()
	b := open(t)
	users := apart(5)
	b.user(users...)
	var holds []placement.Hold
	for _, user := range users {
		holds = append(holds, b.hold(user))
	}
	if err := b.Check(t.Context(), holds); err != nil {
		t.Errorf("all are owned: %v", err)
	}
	for i, set := range []string{`state = 'fenced'`, `state = 'incoming'`, `state = 'moved', epoch = 2, moved_to = 's2'`, `epoch = 2`} {
		b.alter(fmt.Sprintf(`update saldo.slots set %s where slot = %d`, set, holds[i].Slot))
	}
	got := map[ledger.Slot]placement.Answer{}
	for _, refusal := range refusals(b.Check(t.Context(), holds)) {
		got[refusal.Slot] = refusal.Answer
	}
	for i, want := range []placement.Answer{placement.Fenced, placement.Fenced, placement.Moved, placement.EpochOld, ""} {
		if got[holds[i].Slot] != want {
			t.Errorf("slot %d is answered %q, want %q", i, got[holds[i].Slot], want)
		}
	}
	if err := b.Check(t.Context(), slices.Clone(holds[4:])); err != nil {
		t.Errorf("beside others that are not: %v", err)
	}
	if stranger := openAt(t, b.dsn, func(c *shard.Config) { c.ID = "s9" }); !isStranger(stranger.Check(t.Context(), holds[4:])) {
		t.Error("another shard answers")
	}
	b.Close()
	if code := ledger.CodeOf(b.Check(t.Context(), holds)); code != ledger.CodeUnavailable {
		t.Errorf("a closed shard: %q", code)
	}
}
