-- +goose Up

-- Everything of Saldo's lives in the schema saldo (created before the first migration) and belongs to the owner, who
-- migrates. The services connect as saldo_service, which can write history but never change or delete it. Movers and
-- whoever decides ownership use saldo_mover.
-- +goose StatementBegin
do $$
declare
    wanted text;
begin
    foreach wanted in array array['saldo_service', 'saldo_mover'] loop
        if not exists (select from pg_roles where rolname = wanted) then
            begin
                execute format('create role %I nologin', wanted);
            exception when duplicate_object or unique_violation then
                null; -- roles are the server's: another database's migration was faster
            end;
        end if;
        -- Since Postgres 16 a member may not always take the role on.
        if not pg_has_role(current_user, wanted, case when current_setting('server_version_num')::int < 160000 then 'member' else 'set' end) then
            execute format('grant %I to current_user', wanted);
        end if;
    end loop;
end
$$;
-- +goose StatementEnd

-- Who this database is. One row, written when the shard is enrolled in a cluster.
create table saldo.shard_meta (
    one        boolean     primary key default true check (one),
    cluster    text        not null,
    shard      text        not null collate "C",
    slots      int         not null,
    hash       text        not null,
    timeline   int         not null, -- of the adopted primary: a promoted standby has another one and is refused
    history    text        not null default '', -- of that timeline, where it is not the first: what it came from
    adoption   uuid,                 -- the mark of the adoption that was begun last
    revision   uuid        not null default gen_random_uuid(), -- of table slots, see below
    created_at timestamptz not null default clock_timestamp()
);

-- Ownership, as this shard enforces it. A slot without a row was never here.
create table saldo.slots (
    slot      smallint primary key check (slot between 0 and 4095),
    state     text     not null check (state in ('owned', 'fenced', 'incoming', 'moved')),
    epoch     bigint   not null check (epoch >= 1),
    move_id   text     not null default '' collate "C", -- of the move under way, or that left a copy
    token     bigint   not null default 0,              -- its mover's; only grows within a move
    moved_to  text     not null default '' collate "C",
    fenced_at timestamptz,
    clean     boolean  not null default true -- false: there may be rows of the slot here that are not this shard's own
);

-- Every statement that may change slots gives them a new revision, in the same transaction: who has seen a slot at a
-- revision needs not look again as long as it is the same. It is random, since a number that counts would come again, for
-- other slots, in a database that lost its latest changes. Its row is locked until the change is committed, so whoever
-- takes the advisory lock takes it first.
-- +goose StatementBegin
create function saldo.renew_revision() returns trigger language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    update saldo.shard_meta set revision = gen_random_uuid();
    return null;
end
$$;
-- +goose StatementEnd
create trigger renew_revision after insert or update or delete or truncate on saldo.slots
    for each statement execute function saldo.renew_revision();

-- In every table below: keys begin with the slot; texts compare byte for byte; no column is null where a plain row would
-- need a null bitmap for it; there are no foreign keys, since they would take locks in an order of their own.

create table saldo.users (
    slot       smallint    not null,
    id         text        not null collate "C",
    name       text        not null,
    email      text        not null,
    created_at timestamptz not null default clock_timestamp(),
    updated_at timestamptz not null default clock_timestamp(),
    tx         bigint      not null default (pg_current_xact_id()::text::bigint),
    primary key (slot, id)
);
create index users_tx on saldo.users using brin (tx) with (autosummarize = on);

-- No tx and no index but the key: an index on anything that changes would end HOT updates.
create table saldo.accounts (
    balance    bigint      not null default 0 check (balance >= 0), -- minor units
    version    bigint      not null default 0 check (version >= 0), -- the latest entry's; 0: none yet
    updated_at timestamptz not null default clock_timestamp(),      -- the latest entry's created_at
    slot       smallint    not null,
    user_id    text        not null collate "C",
    currency   text        not null collate "C",
    primary key (slot, user_id, currency)
) with (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0);

-- Append-only. What was asked of this shard and what became of it. The system side stands beside it: with the entries of
-- the same step it sums to zero.
create table saldo.operations (
    amount         bigint      not null check (amount between 1 and 9007199254740991),
    balance        bigint      not null check (balance >= 0), -- the owner's account after it; 0 if refused
    version        bigint      not null check (version >= 0), -- the owner's account after it; 0 if refused
    system_amount  bigint      not null,
    created_at     timestamptz not null,
    tx             bigint      not null default (pg_current_xact_id()::text::bigint),
    slot           smallint    not null, -- of the initiator, for a credit of the payee
    step           smallint    not null check (step between 1 and 3), -- start, credit, refund
    kind           smallint    not null check (kind between 1 and 3), -- add, withdraw, transfer
    saga           boolean     not null, -- the start debited for a saga
    initiator      text        not null collate "C",
    tx_id          text        not null collate "C",
    payee          text        not null collate "C", -- '' if the other side is @world
    currency       text        not null collate "C",
    reason         text        not null collate "C", -- '' if applied
    system_account text        not null collate "C",
    description    text        not null,
    -- tx_id before the initiator, so that a look-up by tx_id alone probes once for each slot and needs no index of its own
    primary key (slot, tx_id, initiator, step),
    -- Refused: no system side. Applied: an add comes from @world, a withdrawal goes there; a start goes into @transit, a credit
    -- and a refund come from there; a transfer within the shard has none. (Each statement that writes reads a check's
    -- expression anew, so it is kept short.)
    check (system_account = case when reason <> '' then '' when step > 1 then '@transit' when kind < 3 then '@world'
                                 when saga then '@transit' else '' end
           and system_amount = case when system_account = '' then 0 when step = 1 and kind > 1 then amount else -amount end
           and (reason = '' or version = 0))
);
create index operations_tx on saldo.operations using brin (tx) with (autosummarize = on);

-- Append-only. The initiator of an entry's transfer is its user (an add, a withdrawal, a debit, a refund) or, for money
-- received, its counterparty.
create table saldo.entries (
    version      bigint      not null check (version >= 1),
    amount       bigint      not null check (amount <> 0), -- signed
    balance      bigint      not null check (balance >= 0 and balance - amount >= 0), -- after it
    created_at   timestamptz not null,
    tx           bigint      not null default (pg_current_xact_id()::text::bigint),
    slot         smallint    not null,
    step         smallint    not null,
    kind         smallint    not null,
    user_id      text        not null collate "C",
    currency     text        not null collate "C",
    tx_id        text        not null collate "C",
    counterparty text        not null collate "C",
    primary key (slot, user_id, currency, version)
);
create index entries_tx on saldo.entries using brin (tx) with (autosummarize = on);

-- The money side of a saga is in operations; this row is its durable state. It names users, never shards.
create table saldo.sagas (
    amount     bigint      not null,
    created_at timestamptz not null,
    tx         bigint      not null default (pg_current_xact_id()::text::bigint), -- of the latest change
    slot       smallint    not null, -- of the initiator
    state      smallint    not null check (state between 1 and 3), -- pending, completed, refunded
    initiator  text        not null collate "C",
    tx_id      text        not null collate "C",
    payee      text        not null collate "C",
    currency   text        not null collate "C",
    cause      text        not null default '' collate "C", -- why it was refunded
    trace      text        not null, -- W3C traceparent of the request, or ''
    ended_at   timestamptz,
    primary key (slot, tx_id, initiator),
    check ((state = 1) = (ended_at is null)),
    check ((state = 3) = (cause <> ''))
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);
-- The queue of the runners: a transaction's sagas stand behind all that were committed before it began.
create index sagas_pending on saldo.sagas (tx, slot, tx_id, initiator) where state = 1;

-- Append-only. What came with the slots of a move, negative, or went with them: so the entries and system sides of the
-- slots that a shard answers for sum to zero together with it, and over all shards it sums to zero by itself.
create table saldo.moved (
    move_id  text        not null collate "C",
    currency text        not null collate "C",
    other    text        not null collate "C", -- the move's other shard: it books the reverse, and may be removed later
    amount   numeric     not null check (amount = trunc(amount)), -- a sum over accounts, which may be beyond bigint
    at       timestamptz not null default clock_timestamp(),
    primary key (move_id, currency)
);

-- How far the copy of a move has come, at its target; written in the transactions that write the rows.
create table saldo.moves (
    move_id      text        primary key collate "C",
    source       text        not null collate "C",
    system       bigint      not null, -- the source's system identifier
    timeline     int         not null, -- and its timeline: the snapshot means nothing to another server
    snapshot     pg_snapshot not null, -- of the source: the next pass copies what it did not see
    lsn          pg_lsn      not null, -- the source's log was durable up to here when that was stored
    stage        smallint    not null default 0,    -- the table that is being copied, of what was there; 5: all are
    after        text[]      not null default '{}', -- the key of the last row copied of it; empty: none yet
    half         boolean     not null default false, -- a pass was copied in part, and goes beyond the snapshot
    final        int         not null default 0,     -- if the last pass was the one under the fence: this server's timeline then
    verified     smallint[]  not null default '{}',  -- slots whose history was compared
    rows         bigint      not null default 0,
    expected     bigint      not null,               -- by the source's statistics; 0: unknown
    passes       int         not null default 0,
    last_pass    bigint      not null default 0,     -- rows
    created_at   timestamptz not null default clock_timestamp(),
    activated_at timestamptz
);

-- What the copied rows sum to, so that nobody needs to read them all while clients wait.
create table saldo.move_sums (
    move_id  text     not null collate "C",
    slot     smallint not null,
    currency text     not null collate "C",
    entries  numeric  not null,
    sides    numeric  not null, -- system sides
    primary key (move_id, slot, currency)
);

-- The system sides, as the entries they are. Those of @moved are of no slot.
create view saldo.system_entries as
    select slot, initiator, tx_id, step, system_account, currency, system_amount::numeric as amount, created_at
    from saldo.operations
    where system_account <> ''
    union all
    select null, '', move_id, null, '@moved', currency, amount, at
    from saldo.moved;

-- The guard: raises unless this database is the shard that the caller means, on the timeline that was adopted, and owns
-- every slot at the epoch that the caller holds. The setting saldo.timeline of the session is the timeline that the registry
-- knows (0 or none: any): an old primary that comes back is on the one that its own tables say was adopted. It must run as a statement of its own, in READ COMMITTED, after the
-- transaction has taken the shard-wide advisory lock: then no fence can commit between the check and the commit.
-- It returns the revision of the slots. A caller to whom it has returned that for each of these slots and epochs before, in
-- one call or several, may pass it as seen, and then the slots are not looked at if it is still the revision. (It is stable,
-- so that revision and slots are of one snapshot: that of the statement that calls it.)
-- The detail of SD010 is a JSON list with an item for each slot that is not owned as held.
-- +goose StatementBegin
create function saldo.guard(want_cluster text, want_shard text, want_slots smallint[], want_epochs bigint[], seen uuid default null)
returns uuid language plpgsql stable as $$
declare
    meta     saldo.shard_meta;
    running  int;
    expected int;
    refused  jsonb;
begin
    select * into meta from saldo.shard_meta;
    if meta.cluster is distinct from want_cluster or meta.shard is distinct from want_shard then
        raise exception using errcode = 'SD001', message = format(
            'this database is shard %s of cluster %s, not shard %s of cluster %s',
            coalesce(meta.shard, '(none)'), coalesce(meta.cluster, '(none)'), want_shard, want_cluster);
    end if;
    running := ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int;
    if meta.timeline <> running then
        raise exception using errcode = 'SD002', message = format(
            'this server is on timeline %s, which shard %s has not adopted (adopted: %s)', running, meta.shard, meta.timeline);
    end if;
    expected := nullif(current_setting('saldo.timeline', true), '');
    if expected not in (0, running) then
        raise exception using errcode = 'SD002', message = format(
            'this server is on timeline %s, and the primary of shard %s is on %s', running, meta.shard, expected);
    end if;
    if meta.revision = seen then
        return seen;
    end if;
    if not exists (
        select from (select unnest(want_slots) as slot, unnest(want_epochs) as epoch) held
        left join saldo.slots owned on owned.slot = held.slot
        where owned.slot is null or owned.state <> 'owned' or owned.epoch <> held.epoch
    ) then
        return meta.revision; -- nearly always, and cheaper than to collect nothing
    end if;
    select jsonb_agg(jsonb_build_object('slot', held.slot, 'held', held.epoch, 'state', owned.state,
                                        'epoch', owned.epoch, 'moved_to', owned.moved_to, 'move', owned.move_id))
    into refused
    from (select unnest(want_slots) as slot, unnest(want_epochs) as epoch) held
    left join saldo.slots owned on owned.slot = held.slot
    where owned.slot is null or owned.state <> 'owned' or owned.epoch <> held.epoch;
    if refused is not null then
        raise exception using errcode = 'SD010', message = 'slots not owned as held', detail = refused::text;
    end if;
    return meta.revision;
end
$$;
-- +goose StatementEnd

-- The movers' guard: raises unless this is the shard that the caller means and every slot is in the state that the mover
-- needs, under its move and (but for 'moved', which any mover may clean) with its token. Used as guard is.
-- +goose StatementBegin
create function saldo.guard_move(want_cluster text, want_shard text, want_slots smallint[], want_state text, want_move text, want_token bigint)
returns void language plpgsql volatile as $$
declare
    refused jsonb;
    found   bigint;
begin
    perform saldo.guard(want_cluster, want_shard, '{}', '{}');
    select max(token) into found from saldo.slots where slot = any(want_slots) and move_id = want_move;
    if want_state <> 'moved' and found > want_token then
        raise exception using errcode = 'SD011', message = format('move %s has the token %s, not %s', want_move, found, want_token);
    end if;
    select jsonb_agg(jsonb_build_object('slot', wanted.slot, 'held', 0, 'state', s.state, 'epoch', s.epoch,
                                        'moved_to', s.moved_to, 'move', s.move_id))
    into refused
    from unnest(want_slots) as wanted(slot)
    left join saldo.slots s on s.slot = wanted.slot
    where s.slot is null or s.state <> want_state or s.move_id <> want_move or s.clean
       or want_state <> 'moved' and s.token <> want_token;
    if refused is not null then
        raise exception using errcode = 'SD010', detail = refused::text,
            message = format('slots not %s under move %s', want_state, want_move);
    end if;
end
$$;
-- +goose StatementEnd

-- A delta is found by the BRIN indexes on tx, which know pages only once these have been summarized: else they are all read.
-- Autovacuum does that from time to time, which is enough for the audit that is always on; a move has it done at once.
-- That is the owner's right. It locks out nobody but vacuum.
-- +goose StatementBegin
create function saldo.summarize_tx() returns void language sql security definer set search_path = pg_catalog, pg_temp as $$
    select brin_summarize_new_values('saldo.operations_tx');
    select brin_summarize_new_values('saldo.entries_tx');
    select brin_summarize_new_values('saldo.users_tx');
$$;
-- +goose StatementEnd

revoke all on schema saldo from public;
revoke all on all functions in schema saldo from public;
-- +goose StatementBegin
do $$
begin
    execute format('revoke temporary on database %I from public', current_database());
    execute format('grant temporary on database %I to saldo_mover', current_database()); -- rows on their way
end
$$;
-- +goose StatementEnd
grant usage on schema saldo to saldo_service, saldo_mover;
grant execute on all functions in schema saldo to saldo_service, saldo_mover;
grant select on all tables in schema saldo to saldo_service, saldo_mover;

grant insert (slot, id, name, email) on saldo.users to saldo_service;
grant insert (slot, user_id, currency), update (balance, version, updated_at) on saldo.accounts to saldo_service;
grant insert (slot, initiator, tx_id, step, kind, saga, payee, amount, currency, reason, balance, version,
              system_account, system_amount, description, created_at) on saldo.operations to saldo_service;
grant insert (slot, user_id, currency, version, amount, balance, tx_id, step, kind, counterparty, created_at)
    on saldo.entries to saldo_service;
grant insert (slot, initiator, tx_id, payee, amount, currency, state, trace, created_at), update (state, cause, ended_at, tx)
    on saldo.sagas to saldo_service;

-- What a copy brings. Its tx is the transaction's that brings it: another database's would mean nothing here.
grant insert (slot, id, name, email, created_at, updated_at) on saldo.users to saldo_mover;
grant insert (slot, user_id, currency, balance, version, updated_at), update (balance, version, updated_at) on saldo.accounts to saldo_mover;
grant insert (slot, initiator, tx_id, step, kind, saga, payee, amount, currency, reason, balance, version,
              system_account, system_amount, description, created_at) on saldo.operations to saldo_mover;
grant insert (slot, user_id, currency, version, amount, balance, tx_id, step, kind, counterparty, created_at)
    on saldo.entries to saldo_mover;
grant insert (slot, initiator, tx_id, payee, amount, currency, state, cause, trace, created_at, ended_at),
      update (state, cause, ended_at, tx) on saldo.sagas to saldo_mover;
-- The only deletion there is, of copies: see guard_move.
grant delete on saldo.users, saldo.accounts, saldo.operations, saldo.entries, saldo.sagas to saldo_mover;
grant insert on saldo.moved to saldo_mover;
grant insert, update, delete on saldo.moves, saldo.move_sums to saldo_mover;
grant insert, update on saldo.slots to saldo_mover;

-- +goose Down
drop schema saldo cascade;
