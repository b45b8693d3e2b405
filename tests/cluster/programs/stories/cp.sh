#: what    cp -a, -al, --reflink=auto, --sparse, -u, -n, --backup, -T; mv across and within; install; ln -f; rm -rf
#: needs   cp
#: fast
. "$STORIES/_lib.sh"
tree "$SCRATCH/tree"
cp -a "$SCRATCH/tree" in && same "$SCRATCH/tree" in in && cp -a in "$SCRATCH/out" && same in "$SCRATCH/out" out && cp -a in within && same in within within
mv "$SCRATCH/out" moved-in && same in moved-in "moved in" && mv moved-in "$SCRATCH/out" && same in "$SCRATCH/out" "moved out" && [ ! -e moved-in ]
cp -al in linked && [ in/doc/big.txt -ef linked/doc/big.txt ] && stat -c %h in/doc/big.txt "in/src/file 1.txt"
cp --reflink=auto in/doc/big.txt ref && cmp in/doc/big.txt ref && cp --sparse=always in/doc/hole sparse && cmp in/doc/hole sparse && cp --sparse=never in/doc/hole full && cmp full sparse
cp --reflink=always in/doc/big.txt never 2>&1 | sed 's/:.*//' ; cp -u in/doc/big.txt ref && cp -n in/doc/hole ref ; cmp in/doc/big.txt ref && cp --backup=numbered in/doc/hole ref && cmp ref.~1~ in/doc/big.txt && ls
mkdir into && mv linked into/ && mv -T into/linked into2 && mv into2 into && listing into | sha256sum && mv -n ref into && mv -f full sparse && ls
install -D -m 0644 -o 0 -g 0 in/doc/big.txt deep/er/installed && stat -c '%a %s' deep/er/installed && install -d -m 0711 dir && stat -c %a dir
ln -f in/.hidden dir/h && ln -sfn in dir/s && ln -sfn into dir/s && readlink dir/s && ln -sr in/.hidden dir/r && readlink dir/r && cat dir/r
mv in/doc/big.txt in/doc/hole && mv in/src/deep in/deep && mv in/nonexistent x 2>&1 || true
mv in in/src 2>&1 || true; mv into/into2 in/empty && rm -rf in into deep dir within && ls
