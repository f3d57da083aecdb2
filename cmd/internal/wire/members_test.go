package wire

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// written is a log that is read while it is written.
type written struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (w *written) Write(line []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.Write(line)
}

func (w *written) has(words ...string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for line := range strings.Lines(w.text.String()) {
		found := 0
		for _, word := range words {
			if strings.Contains(line, word) {
				found++
			}
		}
		if found == len(words) {
			return true
		}
	}
	return false
}

// A process says at its start which shards' tables are not its own: newer ones it serves all the same, older ones it does not.
func TestMembersSayWhichTablesAreNotTheirs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 0)
	older, newer := w.register("s1", ""), w.register("s2", "")
	w.sql(older, `delete from saldo.goose_db_version where version_id > 0`)
	w.sql(newer, `insert into saldo.goose_db_version (version_id, is_applied) values (9999, true)`)
	log := new(written)
	m := newMembers(w.cluster(), &postgres, w.passwords, "test", slog.New(slog.NewTextHandler(log, nil)))
	w.background(func(ctx context.Context) error { return m.run(ctx, duties{}) })
	w.eventually(20*time.Second, "it says that s1 is not served", func() bool {
		return log.has("level=ERROR", "shard=s1", "its tables have version 0, and this program needs version", "saldo shard migrate")
	})
	w.eventually(20*time.Second, "it says that s2 is newer", func() bool { return log.has("level=WARN", "shard=s2", "has=9999") })
	for id, served := range map[ledger.ShardID]bool{"s1": false, "s2": true} {
		s, ok := m.Shard(id)
		if !ok {
			t.Fatalf("%s is not open", id)
		}
		_, err := s.TransfersByTxID(w.ctx, "none", []ledger.Slot{7})
		if refused := strings.Contains(fmt.Sprint(err), "its tables have version 0"); refused == served {
			t.Errorf("%s is served: %v: %v", id, !refused, err)
		}
	}
}
