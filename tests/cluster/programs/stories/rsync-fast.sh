#: what    -aHX in and out, nothing to do the second time, --delete
#: needs   rsync
#: fast
. "$STORIES/_lib.sh"
tree "$SCRATCH/tree"
sent() { rsync --out-format='%i %n' "$@" | sort; }
sent -aHX "$SCRATCH/tree/" in/ && same "$SCRATCH/tree" in "copied in"
echo "again:" && sent -aHX "$SCRATCH/tree/" in/
rm "$SCRATCH/tree/doc/big.txt" && touch -d "2025-03-09 UTC" "$SCRATCH/tree/doc" && sent -aHX --delete "$SCRATCH/tree/" in/ && rsync -aHX in/ "$SCRATCH/out/" && same in "$SCRATCH/out" "copied out"
