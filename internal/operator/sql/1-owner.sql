-- Run once, as the superuser, by the image's entrypoint when it makes a shard's database. The owner migrates, and is no
-- superuser; nobody logs in as that from elsewhere.
\set login `cat /run/secrets/owner/username`
\set password `cat /run/secrets/owner/password`
create role saldo_service nologin;
create role saldo_mover nologin;
create role :"login" login password :'password' in role saldo_service, saldo_mover;
alter database saldo owner to :"login";
revoke connect on database saldo from public;

-- For `saldo shard doctor` and `saldo shard adopt`: who follows this server, and where its log forked off.
grant pg_read_all_stats to :"login";
grant execute on function pg_read_file(text) to :"login";

alter role current_user password null;
