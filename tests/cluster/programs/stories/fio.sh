#: what    fio with verify=crc32c: randrw, write, randwrite by psync, sync, pvsync, mmap, libaio, io_uring, with and without direct, fsync, holes, several jobs on one file
#: needs   fio
#: limit   400
job() { name=$1; shift; fio --name="$name" --directory=. --size=16m --bs=4k --verify=crc32c --verify_fatal=1 --do_verify=1 --output="$SCRATCH/$name" --randseed=7 "$@" > /dev/null 2>&1 && echo "$name ok" || { echo "$name failed $?"; tail -8 "$SCRATCH/$name"; }; rm -f "$name".*; }
job psync --ioengine=psync --rw=randrw
job write --ioengine=psync --rw=write --bs=100k
job odd --ioengine=pvsync --rw=randwrite --bsrange=512-64k --bs_unaligned=1
job mmap --ioengine=mmap --rw=randrw
job mmapw --ioengine=mmap --rw=randwrite --fsync=500
job aio --ioengine=libaio --rw=randrw --iodepth=16
job aiodirect --ioengine=libaio --rw=randrw --iodepth=16 --direct=1
job direct --ioengine=psync --rw=randwrite --direct=1
job fsync --ioengine=sync --rw=randwrite --fsync=64 --size=4m
job osync --ioengine=sync --rw=write --sync=1 --size=1m
job trim --ioengine=psync --rw=randwrite --fallocate=native
job uring --ioengine=io_uring --rw=randrw --iodepth=8
job jobs --ioengine=psync --rw=randrw --numjobs=4 --size=4m
ls
