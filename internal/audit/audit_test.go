package audit_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/saldo-ledger/saldo/internal/audit"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

func table(r *audit.Report) string {
	var text bytes.Buffer
	if err := r.WriteTable(&text); err != nil {
		panic(err)
	}
	return text.String()
}

func TestCleanStory(t *testing.T) {
	t.Parallel()
	w := newWorld(t, templates)
	for _, chunk := range []int{1, 2, 1000} {
		r := w.audit(audit.Options{Chunk: chunk})
		if r.Verdict != audit.Clean || r.ExitCode() != 0 {
			t.Fatalf("chunk %d:\n%s", chunk, table(r))
		}
		covered := make(map[audit.Name]int64)
		for _, c := range r.Checks {
			covered[c.Name] = c.Covered
		}
		want := map[audit.Name]int64{
			audit.CheckIdentity: 3, audit.CheckSlots: 4096, audit.CheckRows: 5 + 25, audit.CheckOperations: 25, audit.CheckBooks: 6,
			audit.CheckTransit: 6 / 3, audit.CheckAccounts: 10, audit.CheckOverdraft: 24, audit.CheckSagas: 5,
			audit.CheckCredits: 4, audit.CheckEnds: 3,
		}
		for name, n := range want {
			if covered[name] != n {
				t.Errorf("%s covered %d, want %d", name, covered[name], n)
			}
		}
		if r.Pending != 2 || len(r.Totals) != 2 || r.OldestPending == nil || r.Partial {
			t.Errorf("pending %d, totals %v, oldest %v, partial %v", r.Pending, r.Totals, r.OldestPending, r.Partial)
		}
		// Credited but pending is not in transit; begun is.
		if usd := r.Totals[1]; usd.Currency != "USD" || usd.InTransit.Int64() != 10 || usd.Users.Int64() != 5000-40-10 ||
			usd.World.Int64() != -4960 || usd.Transit.Int64() != 10 {
			t.Errorf("USD: %+v", usd)
		}
		if chunk == 1 {
			t.Logf("\n%s", table(r))
		}
	}
}

func TestJSON(t *testing.T) {
	t.Parallel()
	r := newWorld(t, templates).audit(audit.Options{})
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var back struct {
		Verdict string
		Checks  []struct {
			Name       string
			Violations []any
			Gaps       []any
		}
		Totals []struct {
			Currency  string
			InTransit json.Number `json:"in_transit"`
		}
		Shards []struct {
			ID         string
			Operations int
		}
	}
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if back.Verdict != "clean" || len(back.Checks) != 12 || back.Checks[0].Violations == nil || back.Checks[0].Gaps == nil ||
		back.Totals[1].InTransit != "10" || back.Shards[0].ID != "s1" || back.Shards[0].Operations == 0 {
		t.Errorf("%s", text)
	}
}

type expect map[audit.Name]string // an id that each failing check must name

// Each thing that must not be is found, by the checks that it breaks and no others, under its id.
func TestEachCorruptionIsFound(t *testing.T) {
	t.Parallel()
	slot := placement.SlotOf
	shared := newWorld(t, templates)
	for _, c := range []struct {
		name  string
		where ledger.ShardID
		sql   string
		args  []any
		want  expect
	}{
		// identity
		{"another cluster", "s2", `update shard_meta set cluster = 'other'`, nil, expect{audit.CheckIdentity: "shard s2"}},
		{"another shard", "s2", `update shard_meta set shard = 's9'`, nil, expect{audit.CheckIdentity: "shard s2"}},
		{"another hash", "s2", `update shard_meta set hash = 'crc32'`, nil, expect{audit.CheckIdentity: "shard s2"}},
		{"another number of slots", "s2", `update shard_meta set slots = 1024`, nil, expect{audit.CheckIdentity: "shard s2"}},
		{"a promoted server", "s2", `update shard_meta set timeline = timeline + 1`, nil, expect{audit.CheckIdentity: "shard s2"}},
		{"not enrolled", "s2", `delete from shard_meta`, nil, expect{audit.CheckIdentity: "shard s2"}},
		// slots
		{"owned twice", "s2", `insert into slots (slot, state, epoch) values (7, 'owned', 1)`, nil, expect{audit.CheckSlots: "slot 7"}},
		{"owned twice, later", "s3", `insert into slots (slot, state, epoch) values (7, 'owned', 2)`, nil, expect{audit.CheckSlots: "slot 7"}},
		{"owned never", "s1", `delete from slots where slot = 7`, nil, expect{audit.CheckSlots: "slot 7"}},
		{"another epoch", "s1", `update slots set epoch = 2 where slot = 7`, nil, expect{audit.CheckSlots: "slot 7"}},
		{"a copy under no move", "s2", `insert into slots (slot, state, epoch, clean) values (7, 'incoming', 1, false)`, nil, expect{audit.CheckSlots: "slot 7"}},
		{"moved, and the map is behind", "s2", `insert into slots (slot, state, epoch) values (7, 'moved', 2)`, nil, expect{audit.CheckSlots: "slot 7"}},
		{"fenced for ever", "s1", `update slots set state = 'fenced' where slot = $1`, []any{slot(a1)}, expect{audit.CheckSlots: fmt.Sprint("slot ", slot(a1))}},
		// rows
		{"user in another slot", "s1", `update users set slot = 7 where id = $1`, []any{a2},
			expect{audit.CheckRows: string(a2), audit.CheckAccounts: string(a2) + " USD"}},
		{"refused operation in another slot", "s3", `update operations set slot = 4000 where initiator = $1 and tx_id = 'nobody'`, []any{c9},
			expect{audit.CheckRows: string(c9) + "/nobody start"}},
		{"operation and entry in another slot", "s1", `with o as (update operations set slot = 7 where initiator = $1 and tx_id = 'open')
			update entries set slot = 7 where user_id = $1 and tx_id = 'open'`, []any{a2},
			expect{audit.CheckRows: string(a2) + "/open start", audit.CheckAccounts: string(a2) + " USD"}},
		{"rows of a slot that was never here", "s2", `insert into users (slot, id, name, email) values (7, 'ghost', '', '');
			insert into sagas (slot, initiator, tx_id, payee, amount, currency, state, trace, created_at) values (7, 'ghost', 't', 'x', 1, 'USD', 1, '', now())`, nil,
			expect{audit.CheckRows: "slot 7"}},
		// operations
		{"entry of another amount", "s1", `update entries set amount = amount + 1 where user_id = $1 and tx_id = 'local'`, []any{a1},
			expect{audit.CheckOperations: string(a1) + "/local start", audit.CheckBooks: "USD", audit.CheckAccounts: string(a1) + " USD"}},
		{"entry of another transfer", "s1", `update entries set tx_id = 'loca' where user_id = $1 and tx_id = 'local'`, []any{a1},
			expect{audit.CheckOperations: string(a1) + "/loca start"}},
		{"entry of another step", "s1", `update entries set step = 3 where user_id = $1 and tx_id = 'local'`, []any{a1},
			expect{audit.CheckOperations: string(a1) + "/local refund"}},
		{"counterparty edited", "s1", `update entries set counterparty = $2 where user_id = $1 and tx_id = 'completed'`, []any{a1, b2},
			expect{audit.CheckOperations: string(a1) + "/completed start"}},
		{"told balance edited", "s1", `update operations set balance = balance + 1 where initiator = $1 and tx_id = 'open'`, []any{a1},
			expect{audit.CheckOperations: string(a1) + "/open start"}},
		{"told number edited", "s1", `update operations set version = 9 where initiator = $1 and tx_id = 'open'`, []any{a1},
			expect{audit.CheckOperations: string(a1) + "/open start"}},
		{"payee's entry of a local transfer deleted", "s1", `delete from entries where tx_id = 'local' and user_id = $1`, []any{a2},
			expect{audit.CheckOperations: string(a1) + "/local start", audit.CheckBooks: "USD", audit.CheckAccounts: string(a2) + " USD"}},
		{"payee's entry of a local transfer doubled", "s1", `insert into entries (slot, user_id, currency, version, amount, balance, tx_id, step, kind, counterparty, created_at)
			select slot, user_id, currency, version + 1, amount, balance + amount, tx_id, step, kind, counterparty, now()
			from entries where tx_id = 'local' and user_id = $1`, []any{a2},
			expect{audit.CheckOperations: string(a1) + "/local start", audit.CheckBooks: "USD", audit.CheckAccounts: string(a2) + " USD"}},
		{"both entries of a local transfer deleted", "s1", `delete from entries where tx_id = 'local'`, nil,
			expect{audit.CheckOperations: string(a1) + "/local start", audit.CheckAccounts: string(a1) + " USD"}},
		{"operation deleted", "s1", `delete from operations where initiator = $1 and tx_id = 'local'`, []any{a1},
			expect{audit.CheckOperations: string(a1) + "/local start"}},
		{"applied one made refused", "s1", `update operations set reason = 'same_account', version = 0, balance = 0 where initiator = $1 and tx_id = 'local'`, []any{a1},
			expect{audit.CheckOperations: string(a1) + "/local start"}},
		{"refused one made applied", "s2", `update operations set reason = '', system_account = '@world', system_amount = amount where tx_id = 'too-much'`, nil,
			expect{audit.CheckOperations: string(b2) + "/too-much start", audit.CheckBooks: "USD"}},
		{"system side edited", "s2", `alter table operations drop constraint operations_check;
			update operations set system_amount = system_amount + 1 where tx_id = 'withdraw'`, nil,
			expect{audit.CheckOperations: string(b2) + "/withdraw start", audit.CheckBooks: "USD"}},
		{"system side of another account", "s2", `alter table operations drop constraint operations_check;
			update operations set system_account = '@transit' where tx_id = 'withdraw'`, nil,
			expect{audit.CheckOperations: string(b2) + "/withdraw start", audit.CheckTransit: "USD"}},
		{"system side of a refused one", "s2", `alter table operations drop constraint operations_check;
			update operations set system_account = '@world', system_amount = 1 where tx_id = 'too-much'`, nil,
			expect{audit.CheckOperations: string(b2) + "/too-much start", audit.CheckBooks: "USD"}},
		// books
		{"money from nowhere", "s1", `insert into entries (slot, user_id, currency, version, amount, balance, tx_id, step, kind, counterparty, created_at)
			select slot, user_id, currency, version + 1, 7, balance + 7, 'forged', 1, 1, '', now() from accounts where user_id = $1 and currency = 'EUR'`, []any{a1},
			expect{audit.CheckOperations: string(a1) + "/forged start", audit.CheckBooks: "EUR", audit.CheckAccounts: string(a1) + " EUR"}},
		// accounts
		{"balance edited", "s1", `update accounts set balance = balance + 1 where user_id = $1 and currency = 'USD'`, []any{a1},
			expect{audit.CheckAccounts: string(a1) + " USD"}},
		{"version edited", "s1", `update accounts set version = version + 1 where user_id = $1 and currency = 'USD'`, []any{a1},
			expect{audit.CheckAccounts: string(a1) + " USD"}},
		{"account deleted", "s1", `delete from accounts where user_id = $1 and currency = 'USD'`, []any{a1},
			expect{audit.CheckAccounts: string(a1) + " USD"}},
		{"user deleted", "s1", `delete from users where id = $1`, []any{a1},
			expect{audit.CheckAccounts: string(a1) + " USD", audit.CheckRows: string(a1) + "/local start"}},
		{"a gap in the numbers", "s1", `with o as (update operations set version = 9 where initiator = $1 and version = 4)
			update entries set version = 9 where user_id = $1 and currency = 'USD' and version = 4`, []any{a1},
			expect{audit.CheckAccounts: string(a1) + " USD 9"}},
		{"an entry's number edited", "s2", `update entries set version = version + 10 where user_id = $1 and currency = 'EUR'`, []any{b2},
			expect{audit.CheckAccounts: string(b2) + " EUR 11", audit.CheckOperations: string(b2) + "/open-eur start"}},
		{"an entry's balance edited", "s2", `update entries set balance = balance + 1 where user_id = $1 and tx_id = 'local'`, []any{b2},
			expect{audit.CheckAccounts: string(b2) + " USD 3"}},
		{"time went back", "s2", `update entries set created_at = 'yesterday' where user_id = $1 and tx_id = 'local'`, []any{b2},
			expect{audit.CheckAccounts: string(b2) + " USD 3"}},
		// overdraft
		{"overdrawn", "s1", `alter table entries drop constraint entries_check; alter table operations drop constraint operations_balance_check;
			alter table accounts drop constraint accounts_balance_check; alter table entries drop constraint if exists entries_balance_check;
			update entries set balance = balance - 5000 where user_id = '` + string(a2) + `' and tx_id <> 'open-eur';
			update operations set balance = balance - 5000 where initiator = '` + string(a2) + `' and tx_id <> 'open-eur';
			update accounts set balance = balance - 5000 where user_id = '` + string(a2) + `' and currency = 'USD'`, nil,
			expect{audit.CheckOverdraft: string(a2) + " USD", audit.CheckAccounts: string(a2) + " USD"}},
		// sagas
		{"saga deleted", "s3", `delete from sagas where tx_id = 'begun'`, nil, expect{audit.CheckSagas: string(c1) + "/begun start"}},
		{"saga forged", "s3", `insert into sagas (slot, initiator, tx_id, payee, amount, currency, state, trace, created_at)
			select slot, initiator, 'forged', payee, amount, currency, state, trace, created_at from sagas where tx_id = 'begun'`, nil,
			expect{audit.CheckSagas: string(c1) + "/forged"}},
		{"saga edited", "s3", `update sagas set amount = 11 where tx_id = 'begun'`, nil, expect{audit.CheckSagas: string(c1) + "/begun"}},
		{"refunded made pending", "s1", `update sagas set state = 1, cause = '', ended_at = null where tx_id = 'refunded'`, nil,
			expect{audit.CheckSagas: string(a1) + "/refunded refund"}},
		{"pending made refunded", "s3", `update sagas set state = 3, cause = 'payee_not_found', ended_at = now() where tx_id = 'begun'`, nil,
			expect{audit.CheckSagas: string(c1) + "/begun", audit.CheckEnds: string(c1) + "/begun"}},
		// credits
		{"credit forged", "s2", `with o as (insert into operations (slot, initiator, tx_id, step, kind, saga, payee, amount, currency, reason, balance, version,
				system_account, system_amount, description, created_at)
			select slot, $2, 'forged', 2, 3, false, user_id, 7, 'USD', '', balance + 7, version + 1, '@transit', -7, '', now()
			from accounts where user_id = $1 and currency = 'USD'),
			e as (insert into entries (slot, user_id, currency, version, amount, balance, tx_id, step, kind, counterparty, created_at)
			select slot, user_id, currency, version + 1, 7, balance + 7, 'forged', 2, 3, $2, now() from accounts where user_id = $1 and currency = 'USD')
			update accounts set balance = balance + 7, version = version + 1 where user_id = $1 and currency = 'USD'`, []any{b1, a1},
			expect{audit.CheckCredits: string(a1) + "/forged credit"}},
		{"credit of another transfer", "s3", `with o as (update operations set tx_id = 'local' where tx_id = 'credited')
			update entries set tx_id = 'local' where tx_id = 'credited'`, nil,
			expect{audit.CheckCredits: string(b1) + "/local credit"}},
		{"refused credit forged", "s2", `insert into operations (slot, initiator, tx_id, step, kind, saga, payee, amount, currency, reason, balance, version,
				system_account, system_amount, description, created_at)
			select slot, $2, 'open', 2, 3, false, user_id, 7, 'USD', 'balance_limit', 0, 0, '', 0, '', now()
			from accounts where user_id = $1 and currency = 'USD'`, []any{b1, a1},
			expect{audit.CheckCredits: string(a1) + "/open credit"}},
		{"credited and refunded", "s2", `with o as (insert into operations (slot, initiator, tx_id, step, kind, saga, payee, amount, currency, reason, balance, version,
				system_account, system_amount, description, created_at)
			select slot, initiator, tx_id, 3, kind, false, payee, amount, currency, '', balance + amount, version + 1, '@transit', -amount, '', now()
			from operations where tx_id = 'credited' and step = 1 returning *),
			e as (insert into entries (slot, user_id, currency, version, amount, balance, tx_id, step, kind, counterparty, created_at)
			select slot, initiator, currency, version, amount, balance, tx_id, 3, 3, payee, now() from o),
			s as (update sagas set state = 3, cause = 'balance_limit', ended_at = now() where tx_id = 'credited')
			update accounts a set balance = o.balance, version = o.version from o where a.user_id = o.initiator and a.currency = 'USD'`, nil,
			expect{audit.CheckCredits: string(b1) + "/credited credit", audit.CheckEnds: string(b1) + "/credited", audit.CheckTransit: "USD"}},
		// ends
		{"credit lost", "s2", `with o as (delete from operations where tx_id = 'completed'), e as (delete from entries where tx_id = 'completed')
			update accounts set balance = balance - 100, version = version - 1 where user_id = $1 and currency = 'USD'`, []any{b1},
			expect{audit.CheckEnds: string(a1) + "/completed", audit.CheckAccounts: string(b1) + " USD 4"}},
		{"completed without a credit", "s3", `update sagas set state = 2, ended_at = now() where tx_id = 'begun'`, nil,
			expect{audit.CheckEnds: string(c1) + "/begun"}},
		{"completed although refused", "s1", `with o as (delete from operations where tx_id = 'refunded' and step = 3), e as (delete from entries where tx_id = 'refunded' and step = 3),
			s as (update sagas set state = 2, cause = '' where tx_id = 'refunded')
			update accounts set balance = balance - 30, version = version - 1 where user_id = $1 and currency = 'USD'`, []any{a1},
			expect{audit.CheckEnds: string(a1) + "/refunded", audit.CheckCredits: string(a1) + "/refunded credit",
				audit.CheckAccounts: string(a1) + " USD 6"}},
		{"refunded for another cause", "s1", `update sagas set cause = 'balance_limit' where tx_id = 'refunded'`, nil,
			expect{audit.CheckEnds: string(a1) + "/refunded"}},
		{"refused credit lost", "s3", `delete from operations where tx_id = 'refunded'`, nil, expect{audit.CheckEnds: string(a1) + "/refunded"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := shared.with(t, c.where)
			w.sql(c.where, c.sql, c.args...)
			r := w.audit(audit.Options{Chunk: 2})
			for name, id := range c.want {
				named := func(v audit.Violation) bool { return v.ID == id && v.Problem != "" }
				check := r.Check(name)
				if !slices.ContainsFunc(check.Violations, named) {
					t.Errorf("%s does not name %q", name, id)
				}
			}
			for _, name := range r.Failed() {
				if _, ok := c.want[name]; !ok {
					t.Errorf("%s fails too", name)
				}
			}
			if wantExit := min(len(c.want), 1); r.ExitCode() != wantExit {
				t.Errorf("exit code %d, want %d", r.ExitCode(), wantExit)
			}
			foundInParts(t, w, c.want)
			if text := table(r); t.Failed() || testing.Verbose() {
				t.Logf("\n%s", text)
			} else if strings.Contains(text, "VIOLATION") != (len(c.want) > 0) {
				t.Errorf("\n%s", text)
			}
		})
	}
}

func TestShardThatIsDown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, templates)
	w.open("s3", "postgres://saldo@127.0.0.1:1/none")
	r := w.audit(audit.Options{})
	if r.Verdict != audit.Incomplete || r.ExitCode() != 2 || !r.Partial || len(r.Failed()) > 0 {
		t.Errorf("verdict %s, partial %v, failed %v", r.Verdict, r.Partial, r.Failed())
	}
	for _, c := range r.Checks {
		if c.Name != audit.CheckBooks && c.Name != audit.CheckOperations && !slices.ContainsFunc(c.Gaps, func(gap string) bool { return strings.Contains(gap, "s3") }) {
			t.Errorf("%s does not say that s3 is missing: %v", c.Name, c.Gaps)
		}
	}
	if s3 := r.Shards[2]; s3.ID != "s3" || s3.Error == "" || s3.Operations != 0 || r.Shards[0].Error != "" {
		t.Errorf("shards: %+v", r.Shards)
	}
	if usd := r.Totals[1]; usd.InTransit.Int64() != 15 || r.Check(audit.CheckOperations).Covered != 18 {
		t.Errorf("USD: %+v", usd)
	}
	if text := table(r); !strings.Contains(text, "NOT COMPLETE") || !strings.Contains(text, "partial") {
		t.Errorf("\n%s", text)
	}

	// What is wrong with the others is still found, and comes first.
	w.sql("s1", `update accounts set balance = balance + 1 where user_id = $1 and currency = 'USD'`, a1)
	if r := w.audit(audit.Options{}); r.ExitCode() != 1 || !slices.Equal(r.Failed(), []audit.Name{audit.CheckAccounts}) {
		t.Errorf("\n%s", table(r))
	}
}

// The address of one shard leads to another.
func TestWrongShardBehindAnAddress(t *testing.T) {
	t.Parallel()
	w := newWorld(t, templates)
	w.open("s2", w.dsn["s1"])
	r := w.audit(audit.Options{})
	if c := r.Check(audit.CheckIdentity); r.ExitCode() != 1 || c.Found != 1 || c.Violations[0].ID != "shard s2" {
		t.Errorf("\n%s", table(r))
	}
}

func TestIncompleteMap(t *testing.T) {
	t.Parallel()
	w := newWorld(t, templates)
	owners := placement.Found(shardIDs)
	delete(owners, placement.SlotOf(b1))
	w.view.Map, _ = placement.NewMap(8, owners)
	r := w.audit(audit.Options{})
	c := r.Check(audit.CheckSlots)
	if r.ExitCode() != 1 || c.Found != 2 || c.Violations[0].Problem != "it has no owner in the map" {
		t.Errorf("\n%s", table(r))
	}
	if c := r.Check(audit.CheckEnds); len(c.Gaps) > 0 || c.Covered != 3 {
		t.Errorf("the shard knows that it answers for the slot:\n%s", table(r))
	}
}

// The violations are counted exactly, however many, and listed up to a limit.
func TestManyViolations(t *testing.T) {
	t.Parallel()
	const n = 2345
	w := newWorld(t, templates)
	w.sql("s1", `insert into sagas (slot, initiator, tx_id, payee, amount, currency, state, trace, created_at, ended_at)
		select slot, initiator, 'forged' || i, $1, amount, currency, 2, trace, created_at, now()
		from sagas, generate_series(1, $2) i where tx_id = 'completed'`, b1, n)
	r := w.audit(audit.Options{Chunk: 100, Shown: 3})
	for _, name := range []audit.Name{audit.CheckSagas, audit.CheckEnds} {
		if c := r.Check(name); c.Found != n || len(c.Violations) != 3 {
			t.Errorf("%s: found %d, listed %d", name, c.Found, len(c.Violations))
		}
	}
	if text := table(r); !strings.Contains(text, fmt.Sprintf("and %d more", n-3)) {
		t.Errorf("\n%s", text)
	}
}

// Sums beyond int64.
func TestLargeSums(t *testing.T) {
	t.Parallel()
	w := newWorld(t, templates)
	w.sql("s1", `insert into entries (slot, user_id, currency, version, amount, balance, tx_id, step, kind, counterparty, created_at)
		select slot, user_id, 'JPY', 1, 9223372036854775807, 9223372036854775807, 'forged', 1, 1, '', now() from accounts where currency = 'USD'`)
	r := w.audit(audit.Options{})
	c := r.Check(audit.CheckBooks)
	if c.Found != 1 || !strings.Contains(c.Violations[0].Problem, "together 18446744073709551614") || c.Violations[0].ID != "JPY" {
		t.Errorf("\n%s", table(r))
	}
}

// A map that is behind is read again; nothing is reported.
func TestStaleMap(t *testing.T) {
	t.Parallel()
	w := newWorld(t, templates)
	right := w.view
	owners := placement.Found(shardIDs)
	owners[placement.SlotOf(b1)] = placement.Owner{Shard: "s3", Epoch: 1} // an old owner
	w.view.Map, _ = placement.NewMap(6, owners)
	views := 0
	w.before = func(id ledger.ShardID) {
		if id == "" {
			if views++; views == 2 {
				w.view = right
			}
		}
	}
	if r := w.audit(audit.Options{Patience: time.Minute}); r.ExitCode() != 0 || views < 3 {
		t.Errorf("after %d views:\n%s", views, table(r))
	}
}

// While ownership keeps changing, nothing is called a violation, nor clean.
func TestRestlessMap(t *testing.T) {
	t.Parallel()
	w := newWorld(t, templates)
	w.sql("s2", `delete from operations where tx_id = 'completed'`) // the credit is lost
	maps := [2]*placement.Map{}
	for i := range maps {
		owners := placement.Found(shardIDs)
		owners[placement.SlotOf(b1)] = placement.Owner{Shard: "s2", Epoch: ledger.Epoch(1 + i)}
		maps[i], _ = placement.NewMap(int64(7+i), owners)
	}
	views := 0
	w.before = func(id ledger.ShardID) {
		if id == "" {
			w.view.Map = maps[views%2]
			views++
		}
	}
	r := w.audit(audit.Options{})
	if c := r.Check(audit.CheckEnds); c.Found != 0 || len(c.Gaps) != 1 || !strings.Contains(c.Gaps[0], string(a1)+"/completed") {
		t.Errorf("\n%s", table(r))
	}
}

// A slot that is fenced for a moment is no violation, and all of its money counts.
func TestFence(t *testing.T) {
	t.Parallel()
	w := newWorld(t, templates)
	w.sql("s1", `update slots set state = 'fenced' where slot = $1`, placement.SlotOf(a1))
	seen := 0
	w.before = func(id ledger.ShardID) {
		if id == "s1" {
			if seen++; seen == 4 {
				w.sql("s1", `update slots set state = 'owned' where slot = $1`, placement.SlotOf(a1))
			}
		}
	}
	if r := w.audit(audit.Options{Patience: time.Minute}); r.ExitCode() != 0 || seen < 4 {
		t.Errorf("\n%s", table(r))
	}
}
