#: what    stress-ng's stressors of file systems, 2 s each, with --verify
#: needs   stress-ng
#: limit   590
#: alone
cd . && for one in access binderfs-skip chattr chdir chmod chown copy-file dentry dir dirdeep dirmany dup eventfd-skip fallocate fcntl fiemap fifo file-ioctl filename flock fpunch fstat getdent hdd inode-flags inotify io iomix lease link locka lockf lockofd mknod mmap mmapaddr-skip mmapfork-skip msync open pipe-skip readahead rename revio seek sendfile splice symlink sync-file touch utime verity-skip xattr; do
    case $one in *-skip) continue ;; esac
    timeout 60 stress-ng --temp-path "$PWD" --"$one" 1 --timeout 2 --verify --quiet --oomable --hdd-bytes 8m --iomix-bytes 16m --fallocate-bytes 8m --readahead-bytes 8m --revio-bytes 16m --seek-size 8m --copy-file-bytes 128m --sync-file-bytes 4m --mmap-bytes 8m --msync-bytes 4m --splice-bytes 1m --sendfile-size 1m --dirdeep-inodes 2000 --dirdeep-dirs 2 > "$SCRATCH/out" 2>&1 && word=ok || word="exit $?"
    echo "$one $word" | tee -a "$SCRATCH/words"; [ "$word" = ok ] || sed 's/^/    /' "$SCRATCH/out" | head -6
done
left=$(find . -mindepth 1 | wc -l); [ "$left" = 0 ] || { echo "left behind: $left"; find . | head -5; rm -rf ./*; }
! grep -q exit "$SCRATCH/words"
