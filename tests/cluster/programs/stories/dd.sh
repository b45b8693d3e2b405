#: what    dd with conv=notrunc, sparse, fsync; oflag=direct, sync, dsync, append; iflag=direct, nocache; seek past the end; truncate, head/tail -c, split, csplit, cat, od, shred
#: needs   dd split csplit
#: fast
. "$STORIES/_lib.sh"
seq 200000 > in && dd if=in of=a bs=4k status=none && cmp in a && printf new | dd of=a bs=1 seek=5000 conv=notrunc status=none && sha256sum a && dd if=in of=b bs=10007 conv=fsync status=none && cmp in b
dd if=in of=sync bs=64k oflag=sync status=none && dd if=in of=dsync bs=64k oflag=dsync status=none && cmp in sync && cmp in dsync && dd if=in of=sync bs=1k count=3 oflag=append conv=notrunc status=none && wc -c sync
dd if=/dev/zero of=direct bs=4k count=64 oflag=direct status=none && printf mark | dd of=direct bs=1 seek=100000 conv=notrunc status=none && dd if=direct bs=4k iflag=direct status=none | sha256sum
dd if=in of=past bs=1 count=10 seek=1000000 status=none && stat -c %s past && sha256sum past && dd if=in of=past bs=1 seek=20 count=0 status=none && stat -c %s past
dd if=/dev/zero of=zero bs=64k count=16 conv=sparse status=none && stat -c '%s' zero && dd if=in iflag=nocache,count_bytes,skip_bytes count=100 skip=300 status=none | sha256sum
truncate -s 100 a && truncate -s +50 a && truncate -s %64 a && truncate -r b c && stat -c '%n %s' a c && sha256sum a && truncate -s 5T huge && stat -c '%s' huge && rm huge
head -c 1000 in | tail -c 10 && split -n 7 in part. && cat part.* | cmp - in && split -l 50000 -d in line. && cat line.* | cmp - in && csplit -s -f cs in 1000 '/^5000$/' && cat cs* | cmp - in && ls
cat in in > twice && wc -c twice && cat < twice > thrice && cmp twice thrice && od -An -tx1 -j 100 -N 16 in && tac in | head -1 && shred -n 1 -u twice && rm part.* && ls | wc -l
