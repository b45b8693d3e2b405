#: what    initdb, pgbench with 4 clients for 8 s, kill -9 of the server, recovery, amcheck, pg_dump, vacuum full, checksums
#: needs   /usr/lib/postgresql/15/bin/initdb
#: user    postgres
#: limit   400
#: alone
PATH=/usr/lib/postgresql/15/bin:$PATH
chmod 700 . && initdb -D data -k -E UTF8 --locale=C > "$SCRATCH/initdb.log" 2>&1 || { tail -5 "$SCRATCH/initdb.log"; exit 1; }
begin() { pg_ctl -D data -w -t 90 -l "$SCRATCH/log" -o "-c listen_addresses='' -c unix_socket_directories=$SCRATCH -c max_wal_size=100MB" start > /dev/null || { tail -20 "$SCRATCH/log"; exit 1; }; }
export PGHOST="$SCRATCH" PGDATABASE=postgres
begin && pgbench -i -q -s 2 2> /dev/null && pgbench -c 4 -j 2 -T 8 -n | grep -E 'processed|tps|failed' && psql -Atc 'create extension amcheck; create table kept as select generate_series(1, 1000) n; checkpoint'
(pgbench -c 4 -T 20 -n > /dev/null 2>&1 &) ; sleep 3; kill -9 "$(head -1 data/postmaster.pid)"; sleep 2; rm -f data/postmaster.pid; begin
psql -Atc 'select count(*) from kept' && psql -Atc "select count(bt_index_check(c.oid)) > 5 from pg_class c where relkind = 'i' and relam = 403 and relpersistence = 'p'"
[ "$(psql -Atc 'select sum(abalance) from pgbench_accounts')" = "$(psql -Atc 'select sum(delta) from pgbench_history')" ] && echo balanced
pg_dump > dump.sql && psql -qAtc 'vacuum full' && pg_ctl -D data -m fast -w stop > /dev/null && pg_checksums -D data | grep 'Bad checksums' && tail -3 dump.sql | head -1
