package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/saldo-ledger/saldo/cmd/internal/wire"
	"github.com/saldo-ledger/saldo/internal/cluster"
)

// A shard whose files were replaced by older ones is ill as long as it goes on along its timeline, however far its log has grown.
func TestShardDoctorOfOneThatWasSetBack(t *testing.T) {
	t.Parallel()
	u := newTerminal(t)
	u.addShard("s1", "--initial-shards", "1")
	c := u.registry()
	note := func(timeline int, lsn string) {
		t.Helper()
		err := c.NotePosition(t.Context(), "s1", cluster.Position{Timeline: timeline, LSN: lsn, At: time.Now()})
		if err != nil && !errors.Is(err, cluster.ErrSetBack) {
			t.Fatal(err)
		}
	}
	doctor := func() (says string, code wire.ExitCode) {
		t.Helper()
		says, stderr, err := u.types("", "shard", "doctor", "s1")
		if err != nil && !errors.As(err, &code) {
			t.Fatalf("%v, %s", err, stderr)
		}
		return says, code
	}
	note(1, "0/20")
	if says, code := doctor(); code != 0 || strings.Contains(says, "\n  lost") {
		t.Errorf("at first: %d\n%s", code, says)
	}
	note(1, "0/10")
	note(1, "0/11")
	note(1, "0/30")
	says, code := doctor()
	for _, words := range []string{"up to 0/20 on timeline 1, was set back to an earlier place", "nobody may use it", "recovery.signal"} {
		if code != 1 || !strings.Contains(says, words) {
			t.Errorf("%d, which does not say %q\n%s", code, words, says)
		}
	}
}
