-- The schema that the migrations make, dumped by TestSchemaIsTheDumpedOne. To read, not to run.

CREATE SCHEMA saldo;

CREATE FUNCTION saldo.guard(want_cluster text, want_shard text, want_slots smallint[], want_epochs bigint[], seen uuid DEFAULT NULL::uuid) RETURNS uuid
    LANGUAGE plpgsql STABLE
    AS $$
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

CREATE FUNCTION saldo.guard_move(want_cluster text, want_shard text, want_slots smallint[], want_state text, want_move text, want_token bigint) RETURNS void
    LANGUAGE plpgsql
    AS $$
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

CREATE FUNCTION saldo.renew_revision() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
begin
    update saldo.shard_meta set revision = gen_random_uuid();
    return null;
end
$$;

CREATE FUNCTION saldo.summarize_tx() RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    select brin_summarize_new_values('saldo.operations_tx');
    select brin_summarize_new_values('saldo.entries_tx');
    select brin_summarize_new_values('saldo.users_tx');
$$;

CREATE TABLE saldo.accounts (
    balance bigint DEFAULT 0 NOT NULL,
    version bigint DEFAULT 0 NOT NULL,
    updated_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    slot smallint NOT NULL,
    user_id text NOT NULL COLLATE pg_catalog."C",
    currency text NOT NULL COLLATE pg_catalog."C",
    CONSTRAINT accounts_balance_check CHECK ((balance >= 0)),
    CONSTRAINT accounts_version_check CHECK ((version >= 0))
)
WITH (fillfactor='60', autovacuum_vacuum_scale_factor='0.05', autovacuum_vacuum_threshold='2000', autovacuum_vacuum_cost_delay='0');

CREATE TABLE saldo.entries (
    version bigint NOT NULL,
    amount bigint NOT NULL,
    balance bigint NOT NULL,
    created_at timestamp with time zone NOT NULL,
    tx bigint DEFAULT ((pg_current_xact_id())::text)::bigint NOT NULL,
    slot smallint NOT NULL,
    step smallint NOT NULL,
    kind smallint NOT NULL,
    user_id text NOT NULL COLLATE pg_catalog."C",
    currency text NOT NULL COLLATE pg_catalog."C",
    tx_id text NOT NULL COLLATE pg_catalog."C",
    counterparty text NOT NULL COLLATE pg_catalog."C",
    CONSTRAINT entries_amount_check CHECK ((amount <> 0)),
    CONSTRAINT entries_check CHECK (((balance >= 0) AND ((balance - amount) >= 0))),
    CONSTRAINT entries_version_check CHECK ((version >= 1))
);

CREATE TABLE saldo.move_sums (
    move_id text NOT NULL COLLATE pg_catalog."C",
    slot smallint NOT NULL,
    currency text NOT NULL COLLATE pg_catalog."C",
    entries numeric NOT NULL,
    sides numeric NOT NULL
);

CREATE TABLE saldo.moved (
    move_id text NOT NULL COLLATE pg_catalog."C",
    currency text NOT NULL COLLATE pg_catalog."C",
    other text NOT NULL COLLATE pg_catalog."C",
    amount numeric NOT NULL,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT moved_amount_check CHECK ((amount = trunc(amount)))
);

CREATE TABLE saldo.moves (
    move_id text NOT NULL COLLATE pg_catalog."C",
    source text NOT NULL COLLATE pg_catalog."C",
    system bigint NOT NULL,
    timeline integer NOT NULL,
    snapshot pg_snapshot NOT NULL,
    lsn pg_lsn NOT NULL,
    stage smallint DEFAULT 0 NOT NULL,
    after text[] DEFAULT '{}'::text[] NOT NULL,
    half boolean DEFAULT false NOT NULL,
    final integer DEFAULT 0 NOT NULL,
    verified smallint[] DEFAULT '{}'::smallint[] NOT NULL,
    rows bigint DEFAULT 0 NOT NULL,
    expected bigint NOT NULL,
    passes integer DEFAULT 0 NOT NULL,
    last_pass bigint DEFAULT 0 NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    activated_at timestamp with time zone
);

CREATE TABLE saldo.operations (
    amount bigint NOT NULL,
    balance bigint NOT NULL,
    version bigint NOT NULL,
    system_amount bigint NOT NULL,
    created_at timestamp with time zone NOT NULL,
    tx bigint DEFAULT ((pg_current_xact_id())::text)::bigint NOT NULL,
    slot smallint NOT NULL,
    step smallint NOT NULL,
    kind smallint NOT NULL,
    saga boolean NOT NULL,
    initiator text NOT NULL COLLATE pg_catalog."C",
    tx_id text NOT NULL COLLATE pg_catalog."C",
    payee text NOT NULL COLLATE pg_catalog."C",
    currency text NOT NULL COLLATE pg_catalog."C",
    reason text NOT NULL COLLATE pg_catalog."C",
    system_account text NOT NULL COLLATE pg_catalog."C",
    description text NOT NULL,
    CONSTRAINT operations_amount_check CHECK (((amount >= 1) AND (amount <= '9007199254740991'::bigint))),
    CONSTRAINT operations_balance_check CHECK ((balance >= 0)),
    CONSTRAINT operations_check CHECK (((system_account =
CASE
    WHEN (reason <> ''::text) THEN ''::text
    WHEN (step > 1) THEN '@transit'::text
    WHEN (kind < 3) THEN '@world'::text
    WHEN saga THEN '@transit'::text
    ELSE ''::text
END) AND (system_amount =
CASE
    WHEN (system_account = ''::text) THEN (0)::bigint
    WHEN ((step = 1) AND (kind > 1)) THEN amount
    ELSE (- amount)
END) AND ((reason = ''::text) OR (version = 0)))),
    CONSTRAINT operations_kind_check CHECK (((kind >= 1) AND (kind <= 3))),
    CONSTRAINT operations_step_check CHECK (((step >= 1) AND (step <= 3))),
    CONSTRAINT operations_version_check CHECK ((version >= 0))
);

CREATE TABLE saldo.sagas (
    amount bigint NOT NULL,
    created_at timestamp with time zone NOT NULL,
    tx bigint DEFAULT ((pg_current_xact_id())::text)::bigint NOT NULL,
    slot smallint NOT NULL,
    state smallint NOT NULL,
    initiator text NOT NULL COLLATE pg_catalog."C",
    tx_id text NOT NULL COLLATE pg_catalog."C",
    payee text NOT NULL COLLATE pg_catalog."C",
    currency text NOT NULL COLLATE pg_catalog."C",
    cause text DEFAULT ''::text NOT NULL COLLATE pg_catalog."C",
    trace text NOT NULL,
    ended_at timestamp with time zone,
    CONSTRAINT sagas_check CHECK (((state = 1) = (ended_at IS NULL))),
    CONSTRAINT sagas_check1 CHECK (((state = 3) = (cause <> ''::text))),
    CONSTRAINT sagas_state_check CHECK (((state >= 1) AND (state <= 3)))
)
WITH (fillfactor='70', autovacuum_vacuum_scale_factor='0.05', autovacuum_vacuum_cost_delay='0');

CREATE TABLE saldo.shard_meta (
    one boolean DEFAULT true NOT NULL,
    cluster text NOT NULL,
    shard text NOT NULL COLLATE pg_catalog."C",
    slots integer NOT NULL,
    hash text NOT NULL,
    timeline integer NOT NULL,
    history text DEFAULT ''::text NOT NULL,
    adoption uuid,
    revision uuid DEFAULT gen_random_uuid() NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT shard_meta_one_check CHECK (one)
);

CREATE TABLE saldo.slots (
    slot smallint NOT NULL,
    state text NOT NULL,
    epoch bigint NOT NULL,
    move_id text DEFAULT ''::text NOT NULL COLLATE pg_catalog."C",
    token bigint DEFAULT 0 NOT NULL,
    moved_to text DEFAULT ''::text NOT NULL COLLATE pg_catalog."C",
    fenced_at timestamp with time zone,
    clean boolean DEFAULT true NOT NULL,
    CONSTRAINT slots_epoch_check CHECK ((epoch >= 1)),
    CONSTRAINT slots_slot_check CHECK (((slot >= 0) AND (slot <= 4095))),
    CONSTRAINT slots_state_check CHECK ((state = ANY (ARRAY['owned'::text, 'fenced'::text, 'incoming'::text, 'moved'::text])))
);

CREATE VIEW saldo.system_entries AS
 SELECT operations.slot,
    operations.initiator,
    operations.tx_id,
    operations.step,
    operations.system_account,
    operations.currency,
    (operations.system_amount)::numeric AS amount,
    operations.created_at
   FROM saldo.operations
  WHERE (operations.system_account <> ''::text)
UNION ALL
 SELECT NULL::smallint AS slot,
    ''::text AS initiator,
    moved.move_id AS tx_id,
    NULL::smallint AS step,
    '@moved'::text AS system_account,
    moved.currency,
    moved.amount,
    moved.at AS created_at
   FROM saldo.moved;

CREATE TABLE saldo.users (
    slot smallint NOT NULL,
    id text NOT NULL COLLATE pg_catalog."C",
    name text NOT NULL,
    email text NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    updated_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    tx bigint DEFAULT ((pg_current_xact_id())::text)::bigint NOT NULL
);

ALTER TABLE ONLY saldo.accounts
    ADD CONSTRAINT accounts_pkey PRIMARY KEY (slot, user_id, currency);

ALTER TABLE ONLY saldo.entries
    ADD CONSTRAINT entries_pkey PRIMARY KEY (slot, user_id, currency, version);

ALTER TABLE ONLY saldo.move_sums
    ADD CONSTRAINT move_sums_pkey PRIMARY KEY (move_id, slot, currency);

ALTER TABLE ONLY saldo.moved
    ADD CONSTRAINT moved_pkey PRIMARY KEY (move_id, currency);

ALTER TABLE ONLY saldo.moves
    ADD CONSTRAINT moves_pkey PRIMARY KEY (move_id);

ALTER TABLE ONLY saldo.operations
    ADD CONSTRAINT operations_pkey PRIMARY KEY (slot, tx_id, initiator, step);

ALTER TABLE ONLY saldo.sagas
    ADD CONSTRAINT sagas_pkey PRIMARY KEY (slot, tx_id, initiator);

ALTER TABLE ONLY saldo.shard_meta
    ADD CONSTRAINT shard_meta_pkey PRIMARY KEY (one);

ALTER TABLE ONLY saldo.slots
    ADD CONSTRAINT slots_pkey PRIMARY KEY (slot);

ALTER TABLE ONLY saldo.users
    ADD CONSTRAINT users_pkey PRIMARY KEY (slot, id);

CREATE INDEX entries_tx ON saldo.entries USING brin (tx) WITH (autosummarize='on');

CREATE INDEX operations_tx ON saldo.operations USING brin (tx) WITH (autosummarize='on');

CREATE INDEX sagas_pending ON saldo.sagas USING btree (tx, slot, tx_id, initiator) WHERE (state = 1);

CREATE INDEX users_tx ON saldo.users USING brin (tx) WITH (autosummarize='on');

CREATE TRIGGER renew_revision AFTER INSERT OR DELETE OR UPDATE OR TRUNCATE ON saldo.slots FOR EACH STATEMENT EXECUTE FUNCTION saldo.renew_revision();

GRANT USAGE ON SCHEMA saldo TO saldo_service;
GRANT USAGE ON SCHEMA saldo TO saldo_mover;

REVOKE ALL ON FUNCTION saldo.guard(want_cluster text, want_shard text, want_slots smallint[], want_epochs bigint[], seen uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION saldo.guard(want_cluster text, want_shard text, want_slots smallint[], want_epochs bigint[], seen uuid) TO saldo_service;
GRANT ALL ON FUNCTION saldo.guard(want_cluster text, want_shard text, want_slots smallint[], want_epochs bigint[], seen uuid) TO saldo_mover;

REVOKE ALL ON FUNCTION saldo.guard_move(want_cluster text, want_shard text, want_slots smallint[], want_state text, want_move text, want_token bigint) FROM PUBLIC;
GRANT ALL ON FUNCTION saldo.guard_move(want_cluster text, want_shard text, want_slots smallint[], want_state text, want_move text, want_token bigint) TO saldo_service;
GRANT ALL ON FUNCTION saldo.guard_move(want_cluster text, want_shard text, want_slots smallint[], want_state text, want_move text, want_token bigint) TO saldo_mover;

REVOKE ALL ON FUNCTION saldo.renew_revision() FROM PUBLIC;
GRANT ALL ON FUNCTION saldo.renew_revision() TO saldo_service;
GRANT ALL ON FUNCTION saldo.renew_revision() TO saldo_mover;

REVOKE ALL ON FUNCTION saldo.summarize_tx() FROM PUBLIC;
GRANT ALL ON FUNCTION saldo.summarize_tx() TO saldo_service;
GRANT ALL ON FUNCTION saldo.summarize_tx() TO saldo_mover;

GRANT SELECT ON TABLE saldo.accounts TO saldo_service;
GRANT SELECT,DELETE ON TABLE saldo.accounts TO saldo_mover;

GRANT UPDATE(balance) ON TABLE saldo.accounts TO saldo_service;
GRANT INSERT(balance),UPDATE(balance) ON TABLE saldo.accounts TO saldo_mover;

GRANT UPDATE(version) ON TABLE saldo.accounts TO saldo_service;
GRANT INSERT(version),UPDATE(version) ON TABLE saldo.accounts TO saldo_mover;

GRANT UPDATE(updated_at) ON TABLE saldo.accounts TO saldo_service;
GRANT INSERT(updated_at),UPDATE(updated_at) ON TABLE saldo.accounts TO saldo_mover;

GRANT INSERT(slot) ON TABLE saldo.accounts TO saldo_service;
GRANT INSERT(slot) ON TABLE saldo.accounts TO saldo_mover;

GRANT INSERT(user_id) ON TABLE saldo.accounts TO saldo_service;
GRANT INSERT(user_id) ON TABLE saldo.accounts TO saldo_mover;

GRANT INSERT(currency) ON TABLE saldo.accounts TO saldo_service;
GRANT INSERT(currency) ON TABLE saldo.accounts TO saldo_mover;

GRANT SELECT ON TABLE saldo.entries TO saldo_service;
GRANT SELECT,DELETE ON TABLE saldo.entries TO saldo_mover;

GRANT INSERT(version) ON TABLE saldo.entries TO saldo_service;
GRANT INSERT(version) ON TABLE saldo.entries TO saldo_mover;

GRANT INSERT(amount) ON TABLE saldo.entries TO saldo_service;
GRANT INSERT(amount) ON TABLE saldo.entries TO saldo_mover;

GRANT INSERT(balance) ON TABLE saldo.entries TO saldo_service;
GRANT INSERT(balance) ON TABLE saldo.entries TO saldo_mover;

GRANT INSERT(created_at) ON TABLE saldo.entries TO saldo_service;
GRANT INSERT(created_at) ON TABLE saldo.entries TO saldo_mover;

GRANT INSERT(slot) ON TABLE saldo.entries TO saldo_service;
GRANT INSERT(slot) ON TABLE saldo.entries TO saldo_mover;

GRANT INSERT(step) ON TABLE saldo.entries TO saldo_service;
GRANT INSERT(step) ON TABLE saldo.entries TO saldo_mover;

GRANT INSERT(kind) ON TABLE saldo.entries TO saldo_service;
GRANT INSERT(kind) ON TABLE saldo.entries TO saldo_mover;

GRANT INSERT(user_id) ON TABLE saldo.entries TO saldo_service;
GRANT INSERT(user_id) ON TABLE saldo.entries TO saldo_mover;

GRANT INSERT(currency) ON TABLE saldo.entries TO saldo_service;
GRANT INSERT(currency) ON TABLE saldo.entries TO saldo_mover;

GRANT INSERT(tx_id) ON TABLE saldo.entries TO saldo_service;
GRANT INSERT(tx_id) ON TABLE saldo.entries TO saldo_mover;

GRANT INSERT(counterparty) ON TABLE saldo.entries TO saldo_service;
GRANT INSERT(counterparty) ON TABLE saldo.entries TO saldo_mover;

GRANT SELECT ON TABLE saldo.move_sums TO saldo_service;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE saldo.move_sums TO saldo_mover;

GRANT SELECT ON TABLE saldo.moved TO saldo_service;
GRANT SELECT,INSERT ON TABLE saldo.moved TO saldo_mover;

GRANT SELECT ON TABLE saldo.moves TO saldo_service;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE saldo.moves TO saldo_mover;

GRANT SELECT ON TABLE saldo.operations TO saldo_service;
GRANT SELECT,DELETE ON TABLE saldo.operations TO saldo_mover;

GRANT INSERT(amount) ON TABLE saldo.operations TO saldo_service;
GRANT INSERT(amount) ON TABLE saldo.operations TO saldo_mover;

GRANT INSERT(balance) ON TABLE saldo.operations TO saldo_service;
GRANT INSERT(balance) ON TABLE saldo.operations TO saldo_mover;

GRANT INSERT(version) ON TABLE saldo.operations TO saldo_service;
GRANT INSERT(version) ON TABLE saldo.operations TO saldo_mover;

GRANT INSERT(system_amount) ON TABLE saldo.operations TO saldo_service;
GRANT INSERT(system_amount) ON TABLE saldo.operations TO saldo_mover;

GRANT INSERT(created_at) ON TABLE saldo.operations TO saldo_service;
GRANT INSERT(created_at) ON TABLE saldo.operations TO saldo_mover;

GRANT INSERT(slot) ON TABLE saldo.operations TO saldo_service;
GRANT INSERT(slot) ON TABLE saldo.operations TO saldo_mover;

GRANT INSERT(step) ON TABLE saldo.operations TO saldo_service;
GRANT INSERT(step) ON TABLE saldo.operations TO saldo_mover;

GRANT INSERT(kind) ON TABLE saldo.operations TO saldo_service;
GRANT INSERT(kind) ON TABLE saldo.operations TO saldo_mover;

GRANT INSERT(saga) ON TABLE saldo.operations TO saldo_service;
GRANT INSERT(saga) ON TABLE saldo.operations TO saldo_mover;

GRANT INSERT(initiator) ON TABLE saldo.operations TO saldo_service;
GRANT INSERT(initiator) ON TABLE saldo.operations TO saldo_mover;

GRANT INSERT(tx_id) ON TABLE saldo.operations TO saldo_service;
GRANT INSERT(tx_id) ON TABLE saldo.operations TO saldo_mover;

GRANT INSERT(payee) ON TABLE saldo.operations TO saldo_service;
GRANT INSERT(payee) ON TABLE saldo.operations TO saldo_mover;

GRANT INSERT(currency) ON TABLE saldo.operations TO saldo_service;
GRANT INSERT(currency) ON TABLE saldo.operations TO saldo_mover;

GRANT INSERT(reason) ON TABLE saldo.operations TO saldo_service;
GRANT INSERT(reason) ON TABLE saldo.operations TO saldo_mover;

GRANT INSERT(system_account) ON TABLE saldo.operations TO saldo_service;
GRANT INSERT(system_account) ON TABLE saldo.operations TO saldo_mover;

GRANT INSERT(description) ON TABLE saldo.operations TO saldo_service;
GRANT INSERT(description) ON TABLE saldo.operations TO saldo_mover;

GRANT SELECT ON TABLE saldo.sagas TO saldo_service;
GRANT SELECT,DELETE ON TABLE saldo.sagas TO saldo_mover;

GRANT INSERT(amount) ON TABLE saldo.sagas TO saldo_service;
GRANT INSERT(amount) ON TABLE saldo.sagas TO saldo_mover;

GRANT INSERT(created_at) ON TABLE saldo.sagas TO saldo_service;
GRANT INSERT(created_at) ON TABLE saldo.sagas TO saldo_mover;

GRANT UPDATE(tx) ON TABLE saldo.sagas TO saldo_service;
GRANT UPDATE(tx) ON TABLE saldo.sagas TO saldo_mover;

GRANT INSERT(slot) ON TABLE saldo.sagas TO saldo_service;
GRANT INSERT(slot) ON TABLE saldo.sagas TO saldo_mover;

GRANT INSERT(state),UPDATE(state) ON TABLE saldo.sagas TO saldo_service;
GRANT INSERT(state),UPDATE(state) ON TABLE saldo.sagas TO saldo_mover;

GRANT INSERT(initiator) ON TABLE saldo.sagas TO saldo_service;
GRANT INSERT(initiator) ON TABLE saldo.sagas TO saldo_mover;

GRANT INSERT(tx_id) ON TABLE saldo.sagas TO saldo_service;
GRANT INSERT(tx_id) ON TABLE saldo.sagas TO saldo_mover;

GRANT INSERT(payee) ON TABLE saldo.sagas TO saldo_service;
GRANT INSERT(payee) ON TABLE saldo.sagas TO saldo_mover;

GRANT INSERT(currency) ON TABLE saldo.sagas TO saldo_service;
GRANT INSERT(currency) ON TABLE saldo.sagas TO saldo_mover;

GRANT UPDATE(cause) ON TABLE saldo.sagas TO saldo_service;
GRANT INSERT(cause),UPDATE(cause) ON TABLE saldo.sagas TO saldo_mover;

GRANT INSERT(trace) ON TABLE saldo.sagas TO saldo_service;
GRANT INSERT(trace) ON TABLE saldo.sagas TO saldo_mover;

GRANT UPDATE(ended_at) ON TABLE saldo.sagas TO saldo_service;
GRANT INSERT(ended_at),UPDATE(ended_at) ON TABLE saldo.sagas TO saldo_mover;

GRANT SELECT ON TABLE saldo.shard_meta TO saldo_service;
GRANT SELECT ON TABLE saldo.shard_meta TO saldo_mover;

GRANT SELECT ON TABLE saldo.slots TO saldo_service;
GRANT SELECT,INSERT,UPDATE ON TABLE saldo.slots TO saldo_mover;

GRANT SELECT ON TABLE saldo.system_entries TO saldo_service;
GRANT SELECT ON TABLE saldo.system_entries TO saldo_mover;

GRANT SELECT ON TABLE saldo.users TO saldo_service;
GRANT SELECT,DELETE ON TABLE saldo.users TO saldo_mover;

GRANT INSERT(slot) ON TABLE saldo.users TO saldo_service;
GRANT INSERT(slot) ON TABLE saldo.users TO saldo_mover;

GRANT INSERT(id) ON TABLE saldo.users TO saldo_service;
GRANT INSERT(id) ON TABLE saldo.users TO saldo_mover;

GRANT INSERT(name) ON TABLE saldo.users TO saldo_service;
GRANT INSERT(name) ON TABLE saldo.users TO saldo_mover;

GRANT INSERT(email) ON TABLE saldo.users TO saldo_service;
GRANT INSERT(email) ON TABLE saldo.users TO saldo_mover;

GRANT INSERT(created_at) ON TABLE saldo.users TO saldo_mover;

GRANT INSERT(updated_at) ON TABLE saldo.users TO saldo_mover;
