#: what    both ways, -a -H -X -S, --delete, --inplace, --append, --link-dest, --partial after an interruption, --checksum, nothing to do the second time
#: needs   rsync setfattr
. "$STORIES/_lib.sh"
tree "$SCRATCH/tree"
setfattr -n user.colour -v blue "$SCRATCH/tree/doc/big.txt"
sent() { rsync --out-format='%i %n' "$@" | sort; }
sent -aHX "$SCRATCH/tree/" in/ && same "$SCRATCH/tree" in "copied in"
getfattr -n user.colour --only-values in/doc/big.txt && echo
echo "again:" && sent -aHX "$SCRATCH/tree/" in/
sent -aHX in/ "$SCRATCH/out/" > /dev/null && same in "$SCRATCH/out" "copied out"
echo "out again:" && sent -aHX in/ "$SCRATCH/out/"
rm "$SCRATCH/tree/src/file 5.txt" && touch -d "2025-03-09 UTC" "$SCRATCH/tree/src" && echo more >> "$SCRATCH/tree/src/file 6.txt" && echo "delete:" && touch -d "2025-03-10 UTC" "$SCRATCH/tree/src/file 6.txt" && sent -aHX --delete "$SCRATCH/tree/" in/ && same "$SCRATCH/tree" in deleted
printf XX | dd of="$SCRATCH/tree/doc/big.txt" bs=1 seek=1000000 conv=notrunc status=none && echo inplace && ls -i in/doc/big.txt > "$SCRATCH/inode" && sent -a --inplace --no-whole-file "$SCRATCH/tree/" in/
ls -i in/doc/big.txt | cmp - "$SCRATCH/inode" && same "$SCRATCH/tree" in inplace
seq 400000 400100 >> "$SCRATCH/tree/doc/big.txt" && sent -a --append "$SCRATCH/tree/" in/ && cmp "$SCRATCH/tree/doc/big.txt" in/doc/big.txt
rsync -aH --link-dest="$PWD/in" in/ backup/ && find backup -type f -links 1 | wc -l && [ in/doc/big.txt -ef backup/doc/big.txt ] && echo linked
rsync -aHS in/ sparse/ && cmp in/doc/hole sparse/doc/hole
head -c 30000000 /dev/urandom > "$SCRATCH/large"
rsync --partial --bwlimit=8m "$SCRATCH/large" . 2> /dev/null & pid=$!; sleep 1; kill "$pid"; wait "$pid" || true; while pgrep -f "rsync --partial --bwlimit=8m $SCRATCH/large" > /dev/null; do sleep 0.05; done
[ -s large ] && [ "$(stat -c %s large)" -lt 30000000 ] && echo "a part is there"
rsync --partial "$SCRATCH/large" . && cmp "$SCRATCH/large" large && ls -A
rsync -a --remove-source-files large moved && ls -A moved
mkdir copies && sent -ac in/ copies > /dev/null && echo checksums: && sent -ac in/ copies && ls -A copies
