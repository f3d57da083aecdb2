package e2e

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// world is all that the shards hold, read while nothing changes. It is read and judged here on purpose without the
// product's own queries and rules.
type world struct {
	users    map[string]bool
	starts   map[identity]*operation
	credits  map[identity]*operation
	refunds  map[identity]*operation
	sagas    map[identity]*saga
	entries  map[account][]entry // by version
	balances map[account]held
	wrong    []string // what the reading found
}

// identity makes two requests the same transfer.
type identity struct{ initiator, txID string }

func (id identity) String() string { return id.initiator + "/" + id.txID }

type account struct{ user, currency string }

// contents is what a client asked for.
type contents struct {
	kind     string // add, withdraw, transfer
	payee    string
	amount   int64
	currency string
}

type operation struct {
	contents
	saga             bool
	reason           string // "" if applied
	balance, version int64
	systemAccount    string
	systemAmount     int64
	seen             int // entries
}

type saga struct {
	contents
	state int // 1 pending, 2 completed, 3 refunded
	cause string
}

type entry struct {
	version, amount, balance int64
	identity                 identity
	step                     int
}

// held is an account's row.
type held struct{ balance, version int64 }

var kinds = []string{"", "add", "withdraw", "transfer"}

// readWorld reads every shard, of each slot the shard that owns it. What others have of it must be copies that they know to
// be copies.
func readWorld(t *testing.T, c *cluster) *world {
	t.Helper()
	w := &world{
		users:  make(map[string]bool),
		starts: make(map[identity]*operation), credits: make(map[identity]*operation), refunds: make(map[identity]*operation),
		sagas: make(map[identity]*saga), entries: make(map[account][]entry), balances: make(map[account]held),
	}
	owners := make(map[int]string) // of slots
	for i := range c.servers {
		conn := connect(t, c.ownerDSN(i))
		owned, copied, err := readSlots(conn)
		if err == nil {
			err = w.read(conn, c.shard(i), owned, copied)
		}
		conn.Close(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		for slot := range owned {
			if owners[slot] != "" {
				w.complain("slot %d is owned by %s and by %s", slot, owners[slot], c.shard(i))
			}
			owners[slot] = c.shard(i)
		}
	}
	if len(owners) != placement.Slots {
		w.complain("%d slots have an owner, not %d", len(owners), placement.Slots)
	}
	return w
}

// readSlots returns which slots a shard owns, and of which it has a copy that is not its own.
func readSlots(conn *pgx.Conn) (owned, copied map[int]bool, err error) {
	owned, copied = make(map[int]bool), make(map[int]bool)
	rows, err := conn.Query(context.Background(), `select slot, state = 'owned', not clean from saldo.slots`)
	if err != nil {
		return nil, nil, err
	}
	var slot int
	var own, copy bool
	_, err = pgx.ForEachRow(rows, []any{&slot, &own, &copy}, func() error {
		if own {
			owned[slot] = true
		} else if copy {
			copied[slot] = true
		}
		return nil
	})
	return owned, copied, err
}

func (w *world) complain(format string, args ...any) {
	w.wrong = append(w.wrong, fmt.Sprintf(format, args...))
}

func (w *world) read(conn *pgx.Conn, shard string, owned, copied map[int]bool) error {
	ctx := context.Background()
	// each runs a query whose rows begin with the slot and the user whose slot that must be.
	each := func(query string, into []any, do func()) error {
		rows, err := conn.Query(ctx, query)
		if err != nil {
			return err
		}
		var slot int
		var user string
		_, err = pgx.ForEachRow(rows, append([]any{&slot, &user}, into...), func() error {
			if slot != int(placement.SlotOf(ledger.UserID(user))) {
				w.complain("a row of %s is in slot %d", user, slot)
			}
			switch {
			case owned[slot]:
				do()
			case !copied[slot]:
				w.complain("%s has rows of %s, in slot %d, which is not its own", shard, user, slot)
			}
			return nil
		})
		return err
	}

	var id string
	if err := each(`select slot, id, id from saldo.users`, []any{&id}, func() {
		if w.users[id] {
			w.complain("user %s is there twice", id)
		}
		w.users[id] = true
	}); err != nil {
		return err
	}

	var (
		key        identity
		op         operation
		step, kind int
	)
	if err := each(`
		select slot, case when step = 2 then payee else initiator end,
		       initiator, tx_id, step, kind, payee, amount, currency, saga, reason, balance, version, system_account, system_amount
		from saldo.operations`,
		[]any{&key.initiator, &key.txID, &step, &kind, &op.payee, &op.amount, &op.currency, &op.saga, &op.reason, &op.balance, &op.version, &op.systemAccount, &op.systemAmount},
		func() {
			of := []map[identity]*operation{nil, w.starts, w.credits, w.refunds}[step]
			if of[key] != nil {
				w.complain("step %d of %v is there twice", step, key)
			}
			op.kind = kinds[kind]
			row := op
			of[key] = &row
		}); err != nil {
		return err
	}

	var s saga
	if err := each(`select slot, initiator, initiator, tx_id, payee, amount, currency, state, cause from saldo.sagas`,
		[]any{&key.initiator, &key.txID, &s.payee, &s.amount, &s.currency, &s.state, &s.cause},
		func() {
			s.kind = "transfer"
			row := s
			w.sagas[key] = &row
		}); err != nil {
		return err
	}

	var (
		of account
		e  entry
	)
	if err := each(`
		select slot, user_id, user_id, currency, version, amount, balance, step, tx_id,
		       case when kind = 3 and step <> 3 and amount > 0 then counterparty else user_id end
		from saldo.entries e order by e.slot, e.user_id, e.currency, e.version`,
		[]any{&of.user, &of.currency, &e.version, &e.amount, &e.balance, &e.step, &e.identity.txID, &e.identity.initiator},
		func() { w.entries[of] = append(w.entries[of], e) }); err != nil {
		return err
	}

	var h held
	return each(`select slot, user_id, user_id, currency, balance, version from saldo.accounts`,
		[]any{&of.user, &of.currency, &h.balance, &h.version}, func() { w.balances[of] = h })
}

// check judges the world by itself: what must hold whatever clients did, when nothing is under way.
func (w *world) check(t *testing.T) {
	t.Helper()
	w.replay()
	w.join()
	const most = 20
	for _, problem := range w.wrong[:min(len(w.wrong), most)] {
		t.Error(problem)
	}
	if len(w.wrong) > most {
		t.Errorf("and %d more", len(w.wrong)-most)
	}
}

// replay follows each account's entries from nothing to its balance.
func (w *world) replay() {
	accounts := slices.Collect(maps.Keys(w.entries))
	for of := range w.balances {
		if _, ok := w.entries[of]; !ok {
			accounts = append(accounts, of)
		}
	}
	slices.SortFunc(accounts, func(x, y account) int {
		return strings.Compare(x.user+" "+x.currency, y.user+" "+y.currency)
	})
	for _, of := range accounts {
		var now held
		for _, e := range w.entries[of] {
			now.version++
			now.balance += e.amount
			if e.version != now.version || e.balance != now.balance || now.balance < 0 || e.amount == 0 {
				w.complain("entry %d of %v leads by %d to %d, not entry %d to %d", e.version, of, e.amount, e.balance, now.version, now.balance)
				now = held{e.balance, e.version}
			}
		}
		if w.balances[of] != now {
			w.complain("%v has %v, its entries say %v", of, w.balances[of], now)
		}
		if !w.users[of.user] {
			w.complain("%v has an account and is no user", of)
		}
	}
}

// join holds operations, entries and sagas against each other.
func (w *world) join() {
	minted, users := make(map[string]int64), make(map[string]int64)
	for of, entries := range w.entries {
		for _, e := range entries {
			users[of.currency] += e.amount
			op := []map[identity]*operation{nil, w.starts, w.credits, w.refunds}[e.step][e.identity]
			switch {
			case op == nil:
				w.complain("entry %d of %v belongs to no operation: %v step %d", e.version, of, e.identity, e.step)
				continue
			case op.reason != "":
				w.complain("entry %d of %v is of %v step %d, which was refused: %s", e.version, of, e.identity, e.step, op.reason)
			case e.amount != op.amount && e.amount != -op.amount || of.currency != op.currency:
				w.complain("entry %d of %v moves %d, its operation %v says %d %s", e.version, of, e.amount, e.identity, op.amount, op.currency)
			case e.amount < 0 && of.user != e.identity.initiator, e.amount > 0 && e.step != 3 && op.kind == "transfer" && of.user != op.payee:
				w.complain("entry %d of %v is of %v, which is about somebody else", e.version, of, e.identity)
			}
			op.seen++
		}
	}
	for id, op := range w.starts {
		want, world := 1, int64(0) // entries, @world's side
		switch {
		case op.reason != "":
			want = 0
		case op.kind == "transfer" && !op.saga:
			want = 2
		case op.kind == "add":
			world = op.amount
		case op.kind == "withdraw":
			world = -op.amount
		}
		minted[op.currency] += world
		if op.seen != want {
			w.complain("start %v (%q) has %d entries, not %d", id, op.reason, op.seen, want)
		}
		if s := w.sagas[id]; (s != nil) != (op.saga && op.reason == "") {
			w.complain("start %v opens a saga: %v; a saga is there: %v", id, op.saga && op.reason == "", s != nil)
		}
	}
	for id, op := range w.credits {
		if (op.seen == 1) != (op.reason == "") {
			w.complain("credit %v (%q) has %d entries", id, op.reason, op.seen)
		}
		if start := w.starts[id]; start == nil || start.reason != "" || !start.saga || start.contents != op.contents {
			w.complain("credit %v %v has start %v", id, op.contents, start)
		}
	}
	for id, op := range w.refunds {
		if op.reason != "" || op.seen != 1 {
			w.complain("refund %v (%q) has %d entries", id, op.reason, op.seen)
		}
	}
	for id, s := range w.sagas {
		credit, refund := w.credits[id], w.refunds[id]
		completed := credit != nil && credit.reason == "" && refund == nil
		refunded := credit != nil && credit.reason != "" && refund != nil && credit.reason == s.cause
		if s.state == 2 && !completed || s.state == 3 && !refunded || s.state == 1 {
			w.complain("saga %v is in state %d %q, its credit is %v, its refund %v", id, s.state, s.cause, credit, refund)
		}
	}
	for currency, sum := range users {
		if sum != minted[currency] {
			w.complain("users have %d %s, but %d came in", sum, currency, minted[currency])
		}
	}
}

// outcome is what became of a transfer, as the world shows it.
func (w *world) outcome(id identity) (status, reason string) {
	start := w.starts[id]
	switch {
	case start == nil:
		return "", ""
	case start.reason != "":
		return "REFUSED", start.reason
	case !start.saga:
		return "COMPLETED", ""
	}
	s := w.sagas[id]
	return []string{"?", "PENDING", "COMPLETED", "REFUNDED"}[s.state], s.cause
}

// digest is all of a cluster's tables, each table's rows as one hash. It changes if anything does.
func digest(t *testing.T, c *cluster) map[string]string {
	t.Helper()
	ctx := context.Background()
	digests := make(map[string]string)
	for i := range c.servers {
		conn := connect(t, c.ownerDSN(i))
		rows, err := conn.Query(ctx, `select table_name from information_schema.tables where table_schema = 'saldo' and table_type = 'BASE TABLE'`)
		if err != nil {
			t.Fatal(err)
		}
		tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		for _, table := range tables {
			var hash string
			name := pgx.Identifier{"saldo", table}.Sanitize()
			err := conn.QueryRow(ctx, `select count(*) || ' rows ' || coalesce(md5(string_agg(r::text, E'\n' order by r::text)), '') from `+name+` r`).Scan(&hash)
			if err != nil {
				t.Fatal(err)
			}
			digests[c.shard(i)+"."+table] = hash
		}
		conn.Close(ctx)
	}
	if len(digests) < 6*len(c.servers) {
		t.Fatalf("only %d tables: %v", len(digests), digests)
	}
	return digests
}

func wantSame(t *testing.T, what string, before, after map[string]string) {
	t.Helper()
	for table, hash := range after {
		if before[table] != hash {
			t.Errorf("%s changed %s: %s, before %s", what, table, hash, before[table])
		}
	}
}
