#: what    redis with AOF (always) and RDB: kill -9, everything acknowledged is there; BGREWRITEAOF, BGSAVE, redis-check-aof
#: needs   redis-server redis-cli
#: limit   120
begin() { redis-server --port 0 --unixsocket "$SCRATCH/s" --dir "$PWD" --appendonly yes --appendfsync always --save '' --daemonize no > "$SCRATCH/log" 2>&1 & pid=$!; for _ in $(seq 100); do redis-cli -s "$SCRATCH/s" ping 2> /dev/null | grep -q PONG && return; sleep 0.1; done; cat "$SCRATCH/log"; exit 1; }
r() { redis-cli -s "$SCRATCH/s" "$@"; }
begin && for i in $(seq 300); do echo "SET k$i v$i"; echo "INCR n"; done | r > /dev/null && r get n && kill -9 $pid && { wait $pid || true; } 2> /dev/null
begin && r get n && r get k299 && r bgrewriteaof > /dev/null && sleep 1.5 && r incr n && r bgsave > /dev/null && sleep 1.5 && kill -9 $pid && { wait $pid || true; } 2> /dev/null
begin && r get n && r dbsize && r shutdown nosave > /dev/null 2>&1; wait $pid || true; ls -A | sort; redis-check-aof appendonlydir/*.manifest | tail -1; redis-check-rdb dump.rdb | grep -c 'looks OK'
