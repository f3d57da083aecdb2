package shard

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// UnseenBy is the condition by which a pass finds rows.
var UnseenBy = unseenBy

// Plans are the plans of the queries by which a move reads its source, each in the session that it is made in.
func (p *Pair) Plans(t testing.TB) map[string]string {
	t.Helper()
	ctx := t.Context()
	c, err := p.progress(ctx)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := p.reader.get(ctx)
	if err != nil {
		t.Fatal(err)
	}
	plans := make(map[string]string)
	explain := func(name, query string) {
		t.Helper()
		rows, err := conn.Query(ctx, "explain (costs off) "+query, pgx.QueryExecModeSimpleProtocol)
		if err != nil {
			t.Fatal(err)
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatalf("%s: %v", query, err)
		}
		plans[name] = strings.Join(lines, "\n")
	}
	last := p.config.Slots[len(p.config.Slots)/2]
	for _, table := range movedTables {
		after := slices.Repeat([]string{"'1'"}, len(table.key))
		explain("the rest of a slot of "+table.name, table.slotQuery(last, after, 1000))
		explain("further slots of "+table.name, table.slotsQuery(p.config.Slots[1:], 1000))
	}
	if _, err := p.beginPass(ctx, c, false); err != nil {
		t.Fatal(err)
	}
	defer p.reader.rollback()
	for _, table := range movedTables {
		var key sagaKey
		key.slot, key.Identity = p.config.Slots[0], ledger.Identity{Initiator: "a", TxID: "t"}
		queries, err := p.deltas(table, c.snapshot, []sagaKey{key})
		if err != nil {
			t.Fatal(err)
		}
		for i, query := range queries {
			explain(fmt.Sprintf("delta %d of %s", i+1, table.name), query)
		}
	}
	return plans
}
