-- The schema that the migrations make, dumped by TestSchemaIsTheDumpedOne. To read, not to run.

CREATE SCHEMA saldo;

CREATE FUNCTION saldo.guard(want_cluster text, want_shard text, want_slots smallint[], want_epochs bigint[]) RETURNS void
    LANGUAGE plpgsql
    AS $$
declare
    meta    saldo.shard_meta;
    refused jsonb;
begin
    select * into meta from saldo.shard_meta;
    if meta.cluster is distinct from want_cluster or meta.shard is distinct from want_shard then
        raise exception using errcode = 'SD001', message = format(
            'this database is shard %s of cluster %s, not shard %s of cluster %s',
            coalesce(meta.shard, '(none)'), coalesce(meta.cluster, '(none)'), want_shard, want_cluster);
    end if;
    if meta.timeline <> ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int then
        raise exception using errcode = 'SD002', message = format(
            'this server is on a timeline that shard %s has not adopted (adopted: %s)', meta.shard, meta.timeline);
    end if;
    if not exists (
        select from (select unnest(want_slots) as slot, unnest(want_epochs) as epoch) held
        left join saldo.slots owned on owned.slot = held.slot
        where owned.slot is null or owned.state <> 'owned' or owned.epoch <> held.epoch
    ) then
        return; -- nearly always, and cheaper than to collect nothing
    end if;
    select jsonb_agg(jsonb_build_object('slot', held.slot, 'held', held.epoch, 'state', owned.state,
                                        'epoch', owned.epoch, 'moved_to', owned.moved_to))
    into refused
    from (select unnest(want_slots) as slot, unnest(want_epochs) as epoch) held
    left join saldo.slots owned on owned.slot = held.slot
    where owned.slot is null or owned.state <> 'owned' or owned.epoch <> held.epoch;
    if refused is not null then
        raise exception using errcode = 'SD010', message = 'slots not owned as held', detail = refused::text;
    end if;
end
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
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT shard_meta_one_check CHECK (one)
);

CREATE TABLE saldo.slots (
    slot smallint NOT NULL,
    state text NOT NULL,
    epoch bigint NOT NULL,
    move_id text DEFAULT ''::text NOT NULL COLLATE pg_catalog."C",
    token text DEFAULT ''::text NOT NULL,
    moved_to text DEFAULT ''::text NOT NULL COLLATE pg_catalog."C",
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
    operations.system_amount AS amount,
    operations.created_at
   FROM saldo.operations
  WHERE (operations.system_account <> ''::text);

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

CREATE INDEX entries_tx ON saldo.entries USING brin (tx);

CREATE INDEX operations_tx ON saldo.operations USING brin (tx);

CREATE INDEX sagas_pending ON saldo.sagas USING btree (tx, slot, tx_id, initiator) WHERE (state = 1);

GRANT USAGE ON SCHEMA saldo TO saldo_service;
GRANT USAGE ON SCHEMA saldo TO saldo_mover;

REVOKE ALL ON FUNCTION saldo.guard(want_cluster text, want_shard text, want_slots smallint[], want_epochs bigint[]) FROM PUBLIC;
GRANT ALL ON FUNCTION saldo.guard(want_cluster text, want_shard text, want_slots smallint[], want_epochs bigint[]) TO saldo_service;
GRANT ALL ON FUNCTION saldo.guard(want_cluster text, want_shard text, want_slots smallint[], want_epochs bigint[]) TO saldo_mover;

GRANT SELECT ON TABLE saldo.accounts TO saldo_service;
GRANT SELECT ON TABLE saldo.accounts TO saldo_mover;

GRANT UPDATE(balance) ON TABLE saldo.accounts TO saldo_service;

GRANT UPDATE(version) ON TABLE saldo.accounts TO saldo_service;

GRANT UPDATE(updated_at) ON TABLE saldo.accounts TO saldo_service;

GRANT INSERT(slot) ON TABLE saldo.accounts TO saldo_service;

GRANT INSERT(user_id) ON TABLE saldo.accounts TO saldo_service;

GRANT INSERT(currency) ON TABLE saldo.accounts TO saldo_service;

GRANT SELECT ON TABLE saldo.entries TO saldo_service;
GRANT SELECT ON TABLE saldo.entries TO saldo_mover;

GRANT INSERT(version) ON TABLE saldo.entries TO saldo_service;

GRANT INSERT(amount) ON TABLE saldo.entries TO saldo_service;

GRANT INSERT(balance) ON TABLE saldo.entries TO saldo_service;

GRANT INSERT(created_at) ON TABLE saldo.entries TO saldo_service;

GRANT INSERT(slot) ON TABLE saldo.entries TO saldo_service;

GRANT INSERT(step) ON TABLE saldo.entries TO saldo_service;

GRANT INSERT(kind) ON TABLE saldo.entries TO saldo_service;

GRANT INSERT(user_id) ON TABLE saldo.entries TO saldo_service;

GRANT INSERT(currency) ON TABLE saldo.entries TO saldo_service;

GRANT INSERT(tx_id) ON TABLE saldo.entries TO saldo_service;

GRANT INSERT(counterparty) ON TABLE saldo.entries TO saldo_service;

GRANT SELECT ON TABLE saldo.operations TO saldo_service;
GRANT SELECT ON TABLE saldo.operations TO saldo_mover;

GRANT INSERT(amount) ON TABLE saldo.operations TO saldo_service;

GRANT INSERT(balance) ON TABLE saldo.operations TO saldo_service;

GRANT INSERT(version) ON TABLE saldo.operations TO saldo_service;

GRANT INSERT(system_amount) ON TABLE saldo.operations TO saldo_service;

GRANT INSERT(created_at) ON TABLE saldo.operations TO saldo_service;

GRANT INSERT(slot) ON TABLE saldo.operations TO saldo_service;

GRANT INSERT(step) ON TABLE saldo.operations TO saldo_service;

GRANT INSERT(kind) ON TABLE saldo.operations TO saldo_service;

GRANT INSERT(saga) ON TABLE saldo.operations TO saldo_service;

GRANT INSERT(initiator) ON TABLE saldo.operations TO saldo_service;

GRANT INSERT(tx_id) ON TABLE saldo.operations TO saldo_service;

GRANT INSERT(payee) ON TABLE saldo.operations TO saldo_service;

GRANT INSERT(currency) ON TABLE saldo.operations TO saldo_service;

GRANT INSERT(reason) ON TABLE saldo.operations TO saldo_service;

GRANT INSERT(system_account) ON TABLE saldo.operations TO saldo_service;

GRANT INSERT(description) ON TABLE saldo.operations TO saldo_service;

GRANT SELECT ON TABLE saldo.sagas TO saldo_service;
GRANT SELECT ON TABLE saldo.sagas TO saldo_mover;

GRANT INSERT(amount) ON TABLE saldo.sagas TO saldo_service;

GRANT INSERT(created_at) ON TABLE saldo.sagas TO saldo_service;

GRANT UPDATE(tx) ON TABLE saldo.sagas TO saldo_service;

GRANT INSERT(slot) ON TABLE saldo.sagas TO saldo_service;

GRANT INSERT(state),UPDATE(state) ON TABLE saldo.sagas TO saldo_service;

GRANT INSERT(initiator) ON TABLE saldo.sagas TO saldo_service;

GRANT INSERT(tx_id) ON TABLE saldo.sagas TO saldo_service;

GRANT INSERT(payee) ON TABLE saldo.sagas TO saldo_service;

GRANT INSERT(currency) ON TABLE saldo.sagas TO saldo_service;

GRANT UPDATE(cause) ON TABLE saldo.sagas TO saldo_service;

GRANT INSERT(trace) ON TABLE saldo.sagas TO saldo_service;

GRANT UPDATE(ended_at) ON TABLE saldo.sagas TO saldo_service;

GRANT SELECT ON TABLE saldo.shard_meta TO saldo_service;
GRANT SELECT ON TABLE saldo.shard_meta TO saldo_mover;

GRANT SELECT ON TABLE saldo.slots TO saldo_service;
GRANT SELECT,INSERT,UPDATE ON TABLE saldo.slots TO saldo_mover;

GRANT SELECT ON TABLE saldo.system_entries TO saldo_service;
GRANT SELECT ON TABLE saldo.system_entries TO saldo_mover;

GRANT SELECT ON TABLE saldo.users TO saldo_service;
GRANT SELECT ON TABLE saldo.users TO saldo_mover;

GRANT INSERT(slot) ON TABLE saldo.users TO saldo_service;

GRANT INSERT(id) ON TABLE saldo.users TO saldo_service;

GRANT INSERT(name) ON TABLE saldo.users TO saldo_service;

GRANT INSERT(email) ON TABLE saldo.users TO saldo_service;
