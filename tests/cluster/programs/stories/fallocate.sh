#: what    fallocate: make room, keep the size, punch holes, write zeros, collapse, insert, dig holes
#: needs   fallocate
seq 200000 > in
fallocate -l 1M falloc
stat -c '%s' falloc
sha256sum falloc
cp in p
fallocate -p -o 4096 -l 100000 p
sha256sum p
stat -c %s p
fallocate -n -l 3M p
stat -c %s p
fallocate -z -o 200000 -l 8192 p
sha256sum p
fallocate -d p
sha256sum p && stat -c '%s' p
