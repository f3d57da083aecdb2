-- What the baselines add to Saldo's tables: everything that names their columns is here or in insert.go, copy.go and read.go.

-- Gives each user an account with money in it, added from outside. Users who have one keep it.
create function saldo.fund(p_slots smallint[], p_users text[], p_amount bigint, p_currency text) returns void
language plpgsql set search_path = saldo, pg_temp as $$
begin
    insert into users (slot, id, name, email)
    select slot, id, 'name', '' from unnest(p_slots, p_users) as new(slot, id)
    on conflict do nothing;
    insert into operations (slot, initiator, tx_id, step, kind, saga, payee, amount, currency, reason, balance, version,
                            system_account, system_amount, description, created_at)
    select slot, id, 'fund', 1, 1, false, '', p_amount, p_currency, '', p_amount, 1, '@world', -p_amount, '', now()
    from unnest(p_slots, p_users) as new(slot, id)
    on conflict do nothing;
    insert into entries (slot, user_id, currency, version, amount, balance, tx_id, step, kind, counterparty, created_at)
    select slot, id, p_currency, 1, p_amount, p_amount, 'fund', 1, 1, '', now()
    from unnest(p_slots, p_users) as new(slot, id)
    on conflict do nothing;
    insert into accounts (slot, user_id, currency, balance, version, updated_at)
    select slot, id, p_currency, p_amount, 1, now() from unnest(p_slots, p_users) as new(slot, id)
    on conflict do nothing;
end $$;

-- One idempotent transfer: what it did, or what the first one with this identity did. why is '' if the money moved.
-- It moves the money at once, which is right nearly always, and takes that back if it must not be.
create function saldo.transfer(p_slot smallint, p_payer text, p_tx_id text, p_payee_slot smallint, p_payee text, p_amount bigint,
                               p_currency text, p_description text, out why text, out balance bigint, out version bigint)
language plpgsql set search_path = saldo, pg_temp as $$
declare
    at    timestamptz := clock_timestamp();
    payer record;
    payee record;
begin
    -- both accounts, in one order
    if (p_slot, p_payer collate "C") < (p_payee_slot, p_payee collate "C") then
        update accounts a set balance = a.balance - p_amount, version = a.version + 1, updated_at = greatest(a.updated_at, at)
        where a.slot = p_slot and a.user_id = p_payer and a.currency = p_currency and a.balance >= p_amount
        returning a.balance, a.version, a.updated_at into payer;
        update accounts a set balance = a.balance + p_amount, version = a.version + 1, updated_at = greatest(a.updated_at, at)
        where a.slot = p_payee_slot and a.user_id = p_payee and a.currency = p_currency
        returning a.balance, a.version, a.updated_at into payee;
    else
        update accounts a set balance = a.balance + p_amount, version = a.version + 1, updated_at = greatest(a.updated_at, at)
        where a.slot = p_payee_slot and a.user_id = p_payee and a.currency = p_currency
        returning a.balance, a.version, a.updated_at into payee;
        update accounts a set balance = a.balance - p_amount, version = a.version + 1, updated_at = greatest(a.updated_at, at)
        where a.slot = p_slot and a.user_id = p_payer and a.currency = p_currency and a.balance >= p_amount
        returning a.balance, a.version, a.updated_at into payer;
    end if;
    at := greatest(payer.updated_at, payee.updated_at, at);
    if payer.version is not null and payee.version is not null and p_payer <> p_payee then
        insert into operations (slot, initiator, tx_id, step, kind, saga, payee, amount, currency, reason, balance, version,
                                system_account, system_amount, description, created_at)
        values (p_slot, p_payer, p_tx_id, 1, 3, false, p_payee, p_amount, p_currency, '', payer.balance, payer.version, '', 0,
                p_description, at)
        on conflict do nothing;
        if found then
            insert into entries (slot, user_id, currency, version, amount, balance, tx_id, step, kind, counterparty, created_at)
            values (p_slot, p_payer, p_currency, payer.version, -p_amount, payer.balance, p_tx_id, 1, 3, p_payee, at),
                   (p_payee_slot, p_payee, p_currency, payee.version, p_amount, payee.balance, p_tx_id, 1, 3, p_payer, at);
            why := '';
            balance := payer.balance;
            version := payer.version;
            return;
        end if;
    end if;

    -- A repeat, or refused.
    if payer.version is not null then
        update accounts a set balance = a.balance + p_amount, version = a.version - 1
        where a.slot = p_slot and a.user_id = p_payer and a.currency = p_currency;
    end if;
    if payee.version is not null then
        update accounts a set balance = a.balance - p_amount, version = a.version - 1
        where a.slot = p_payee_slot and a.user_id = p_payee and a.currency = p_currency;
    end if;
    why := case when not exists (select from accounts a where a.slot = p_slot and a.user_id = p_payer and a.currency = p_currency)
                then 'user_not_found'
                when payee.version is null then 'payee_not_found'
                when p_payer = p_payee     then 'same_account'
                else                            'insufficient_funds' end;
    insert into operations (slot, initiator, tx_id, step, kind, saga, payee, amount, currency, reason, balance, version,
                            system_account, system_amount, description, created_at)
    values (p_slot, p_payer, p_tx_id, 1, 3, false, p_payee, p_amount, p_currency, why, 0, 0, '', 0, p_description, at)
    on conflict do nothing;
    select o.reason, o.balance, o.version into why, balance, version
    from operations o where o.slot = p_slot and o.tx_id = p_tx_id and o.initiator = p_payer and o.step = 1;
end $$;

-- The coordinators' decisions, in the payer's database: a transfer between two databases is to be committed.
create table saldo.decisions (id text primary key);

-- The two sides of a transfer between two databases. What must not be raises an error, which is a vote against it: a repeat
-- the operations' unique key, anything else SB001 with the reason as its message.
create function saldo.debit(p_slot smallint, p_payer text, p_tx_id text, p_payee text, p_amount bigint, p_currency text,
                            p_description text, out balance bigint, out version bigint)
language plpgsql set search_path = saldo, pg_temp as $$
declare
    payer record;
begin
    update accounts a
    set balance = a.balance - p_amount, version = a.version + 1, updated_at = greatest(a.updated_at, clock_timestamp())
    where a.slot = p_slot and a.user_id = p_payer and a.currency = p_currency and a.balance >= p_amount
    returning a.balance, a.version, a.updated_at into payer;
    if not found then
        if exists (select from operations o where o.slot = p_slot and o.tx_id = p_tx_id and o.initiator = p_payer and o.step = 1) then
            raise unique_violation;
        end if;
        raise exception using errcode = 'SB001', message = case
            when exists (select from accounts a where a.slot = p_slot and a.user_id = p_payer and a.currency = p_currency)
            then 'insufficient_funds' else 'user_not_found' end;
    end if;
    insert into operations (slot, initiator, tx_id, step, kind, saga, payee, amount, currency, reason, balance, version,
                            system_account, system_amount, description, created_at)
    values (p_slot, p_payer, p_tx_id, 1, 3, true, p_payee, p_amount, p_currency, '', payer.balance, payer.version,
            '@transit', p_amount, p_description, payer.updated_at);
    insert into entries (slot, user_id, currency, version, amount, balance, tx_id, step, kind, counterparty, created_at)
    values (p_slot, p_payer, p_currency, payer.version, -p_amount, payer.balance, p_tx_id, 1, 3, p_payee, payer.updated_at);
    balance := payer.balance;
    version := payer.version;
end $$;

create function saldo.credit(p_slot smallint, p_payee text, p_tx_id text, p_payer text, p_amount bigint, p_currency text,
                             p_description text, out balance bigint, out version bigint)
language plpgsql set search_path = saldo, pg_temp as $$
declare
    payee record;
begin
    update accounts a
    set balance = a.balance + p_amount, version = a.version + 1, updated_at = greatest(a.updated_at, clock_timestamp())
    where a.slot = p_slot and a.user_id = p_payee and a.currency = p_currency
    returning a.balance, a.version, a.updated_at into payee;
    if not found then
        raise exception using errcode = 'SB001', message = 'payee_not_found';
    end if;
    insert into operations (slot, initiator, tx_id, step, kind, saga, payee, amount, currency, reason, balance, version,
                            system_account, system_amount, description, created_at)
    values (p_slot, p_payer, p_tx_id, 2, 3, false, p_payee, p_amount, p_currency, '', payee.balance, payee.version,
            '@transit', -p_amount, p_description, payee.updated_at);
    insert into entries (slot, user_id, currency, version, amount, balance, tx_id, step, kind, counterparty, created_at)
    values (p_slot, p_payee, p_currency, payee.version, p_amount, payee.balance, p_tx_id, 2, 3, p_payer, payee.updated_at);
    balance := payee.balance;
    version := payee.version;
end $$;

-- Whatever is wrong with the books of this database, and what it has in transit.
create function saldo.wrong() returns table (what text, rows bigint)
language sql set search_path = saldo, pg_temp as $$
    select 'accounts that are not the sum of their entries', count(*)
    from accounts a
    left join lateral (select count(*) n, coalesce(max(version), 0) last, coalesce(sum(amount), 0) sum from entries e
                       where e.slot = a.slot and e.user_id = a.user_id and e.currency = a.currency) e on true
    where e.n <> a.version or e.last <> a.version or e.sum <> a.balance
    having count(*) > 0
    union all
    select 'entries that do not carry the balance after them', count(*)
    from (select balance, sum(amount) over (partition by slot, user_id, currency order by version) sum from entries) e
    where balance <> sum
    having count(*) > 0
    union all
    select 'applied operations whose entries and system side do not sum to zero', count(*)
    from (select * from operations where reason = '') o
    full join (select tx_id, step, sum(amount) sum,
                      case when kind = 3 and amount > 0 then counterparty else user_id end initiator
               from entries group by tx_id, step, 4) e using (initiator, tx_id, step)
    where e.sum + o.system_amount is distinct from 0
    having count(*) > 0
$$;
