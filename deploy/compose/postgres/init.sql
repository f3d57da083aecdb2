-- Runs once, as the superuser, when a shard's database is made. The owner migrates and is no superuser; the services log in as
-- a user who can neither change nor delete history. Neither can become the other.
\set owner_password `cat /run/secrets/owner_password`
\set service_password `cat /run/secrets/service_password`

create role saldo_service nologin;
create role saldo_mover nologin;
create role saldo_owner login password :'owner_password' in role saldo_service, saldo_mover;
create role saldo_app login password :'service_password' in role saldo_service, saldo_mover;
alter database saldo owner to saldo_owner;
revoke connect on database saldo from public;
grant connect on database saldo to saldo_app;

-- So that metrics and `saldo shard doctor` can say who follows this server, and `saldo shard adopt` where a log forked off.
grant pg_read_all_stats to saldo_app;
grant execute on function pg_read_file(text) to saldo_owner;
