#: what    tail -f and -F: appends by several writers, rotation by rename, by copytruncate, deletion and new; less +F; logrotate's dance
#: needs   tail less
: > log
tail -s 0.1 -n +1 -F log > "$SCRATCH/F" 2> /dev/null & a=$!
tail -s 0.1 -n +1 -f log > "$SCRATCH/f" 2> /dev/null & b=$!
waits() { for _ in $(seq 100); do grep -q "$2" "$SCRATCH/$1" && return; sleep 0.05; done; echo "$1 never saw $2"; }
for i in 1 2 3; do echo "line $i" >> log; done; waits F "line 3"; waits f "line 3"
mv log log.1 && echo "renamed" >> log.1 && waits f renamed && echo "new" > log && waits F new
echo "old again" >> log.1 && waits f "old again"
cp log log.2 && : > log && sleep 1.2 && echo "after truncation" >> log && waits F "after truncation"
rm log && sleep 1.2 && echo "another" > log && waits F another
kill $a $b; wait 2> /dev/null || true; grep -v renamed "$SCRATCH/F" | sort -u; cat "$SCRATCH/f"; ls
(for i in $(seq 50); do echo "a $i"; done >> log) & (for i in $(seq 50); do echo "b $i"; done >> log) & wait; grep -c '^[ab] ' log
less -FX log.1 < /dev/null
