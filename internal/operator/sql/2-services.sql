-- Run after the other one, where the services have a login of their own: nothing that they hold can become the owner.
\set login `cat /run/secrets/service/username`
\set password `cat /run/secrets/service/password`
create role :"login" login password :'password' in role saldo_service, saldo_mover;
grant connect on database saldo to :"login";
grant pg_read_all_stats to :"login";
