#: what    dbench with 4 clients, bonnie++, fs_mark, small and short
#: needs   dbench bonnie++ fs_mark
#: limit   500
#: alone
dbench -D . -t 8 -F 2 2>&1 | tail -1
bonnie++ -d . -u root -s 32m -r 16 -n 2:20000:10:4 -q -x 1 2> "$SCRATCH/err" | cut -c1-100 || { cat "$SCRATCH/err"; exit 1; }
fs_mark -d . -n 200 -s 8192 -t 2 -S 1 -D 4 2>&1 | tail -1
find . -type f | wc -l
