package growth

import (
	"context"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/saldo-ledger/saldo/internal/bench/stand"
	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// members are the users of one shard, by their numbers: ten million texts would keep the garbage collector busy, and its
// time would count as the lanes'.
type members []uint32

// userID names user n. The ids of one length are in the order of their numbers.
func userID(n uint32) ledger.UserID {
	id := make([]byte, 0, 16)
	id = append(id, "grow-"...)
	for unit := uint32(10_000_000); n < unit && unit > 1; unit /= 10 {
		id = append(id, '0')
	}
	return ledger.UserID(strconv.AppendUint(id, uint64(n), 10))
}

// mostUsers is how many ids have one length.
const mostUsers = 100_000_000

// choose returns the users of each shard: the first so many that live there, in the order of the tables.
func choose(s *stand.Stand, accounts int) ([]members, error) {
	var slots [placement.Slots]members
	counts, full := make([]int, len(s.Shards)), 0
	index := make(map[ledger.ShardID]int)
	for i, shard := range s.Shards {
		index[shard.ID] = i
	}
	for n := uint32(0); full < len(s.Shards); n++ {
		if n == mostUsers {
			return nil, fmt.Errorf("%d accounts on each of %d shards are too many: at most %d users have names",
				accounts, len(s.Shards), mostUsers)
		}
		slot := placement.SlotOf(userID(n))
		i := index[s.Map().Owner(slot).Shard]
		if counts[i] == accounts {
			continue
		}
		slots[slot] = append(slots[slot], n)
		if counts[i]++; counts[i] == accounts {
			full++
		}
	}
	users := make([]members, len(s.Shards))
	for slot, of := range slots {
		i := index[s.Map().Owner(ledger.Slot(slot)).Shard]
		users[i] = append(users[i], of...)
	}
	return users, nil
}

// purse is what each user begins with: enough for every payment of any run.
const purse = int64(1) << 40

// fill gives a shard the users, each with an account and so many entries. All that is more than the first entry comes from
// payments of 1 from one of a pair of neighbours to the other and back.
func fill(ctx context.Context, dsn string, users members, entriesEach int64) error {
	if len(users)%2 != 0 {
		return fmt.Errorf("%d accounts are not pairs", len(users))
	}
	err := onServer(ctx, dsn, func(conn *pgx.Conn) error {
		rows := pgx.CopyFromSlice(len(users), func(i int) ([]any, error) {
			id := userID(users[i])
			return []any{int16(placement.SlotOf(id)), string(id), "of a measurement", ""}, nil
		})
		_, err := conn.CopyFrom(ctx, pgx.Identifier{"users"}, []string{"slot", "id", "name", "email"}, rows)
		return err
	})
	if err != nil {
		return fmt.Errorf("make users: %w", err)
	}
	group, groupCtx := errgroup.WithContext(ctx)
	for _, table := range []struct{ name, statement string }{
		{"accounts", insertAccounts}, {"entries", insertEntries}, {"operations", insertOperations},
	} {
		group.Go(func() error {
			if err := do(groupCtx, dsn, table.statement, purse, entriesEach); err != nil {
				return fmt.Errorf("make %s: %w", table.name, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if err := do(ctx, dsn, "vacuum (analyze) users, accounts, entries, operations"); err != nil {
		return fmt.Errorf("vacuum: %w", err)
	}
	return nil
}

// checkpoint makes one.
func checkpoint(ctx context.Context, dsn string) error {
	if err := do(ctx, dsn, "checkpoint"); err != nil {
		return fmt.Errorf("make a checkpoint: %w", err)
	}
	return nil
}

// do runs a statement on a connection of its own.
func do(ctx context.Context, dsn, statement string, args ...any) error {
	return onServer(ctx, dsn, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, statement, args...)
		return err
	})
}

// onServer connects for one thing. Nothing of it needs to survive a crash.
func onServer(ctx context.Context, dsn string, thing func(*pgx.Conn) error) error {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return err
	}
	config.RuntimeParams["search_path"], config.RuntimeParams["synchronous_commit"] = "saldo", "off"
	config.RuntimeParams["application_name"] = "saldo bench growth"
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return thing(conn)
}

// The users as pairs of neighbours, in the order of the tables' keys, so that each insert goes on where it was. The last
// column is the number of an entry; of an even one side 0 pays, of an odd one side 1, and number 1 is where all begins.
const pairs = `
select slot, id, side, partner, generate_series(1, $2::bigint) as version
from (
    select slot, id, n % 2 as side,
           case n % 2 when 0 then lead(id) over neighbours else lag(id) over neighbours end as partner
    from (select slot, id, row_number() over (order by slot, id) - 1 as n from users) numbered
    window neighbours as (order by slot, id)
) members`

// What stands on an account after an entry: after an even one, one unit has gone over.
const balanceAfter = `$1::bigint + (1 - version % 2) * (2 * side - 1)`

const insertAccounts = `
insert into accounts (slot, user_id, currency, balance, version, updated_at)
select slot, id, 'USD', ` + balanceAfter + `, version, now()
from (
    select slot, id, (row_number() over (order by slot, id) - 1) % 2 as side, $2::bigint as version
    from users
) members
order by slot, id`

const insertEntries = `
insert into entries (slot, user_id, currency, version, amount, balance, tx_id, step, kind, counterparty, created_at)
select slot, id, 'USD', version,
       case when version = 1 then $1::bigint when version % 2 = side then -1 else 1 end,
       ` + balanceAfter + `,
       case when version = 1 or version % 2 = side then id else partner end || '-' || lpad(version::text, 8, '0'),
       1, case when version = 1 then 1 else 3 end,
       case when version = 1 then '' else partner end,
       now()
from (` + pairs + `) numbered`

const insertOperations = `
insert into operations (slot, initiator, tx_id, step, kind, saga, payee, amount, currency, reason, balance, version,
                        system_account, system_amount, description, created_at)
select slot, id, id || '-' || lpad(version::text, 8, '0'), 1, case when version = 1 then 1 else 3 end, false,
       case when version = 1 then '' else partner end,
       case when version = 1 then $1::bigint else 1 end,
       'USD', '', ` + balanceAfter + `, version,
       case when version = 1 then '@world' else '' end,
       case when version = 1 then -$1::bigint else 0 end,
       '', now()
from (` + pairs + `) numbered
where version = 1 or version % 2 = side`
