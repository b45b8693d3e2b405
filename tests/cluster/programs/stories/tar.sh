#: what    czf, xf, -S, --xattrs, append, update, incremental, cpio; odd modes and names as in layers of images
#: needs   tar cpio setfattr
. "$STORIES/_lib.sh"
export TAR_OPTIONS=--warning=no-timestamp
tree tree && setfattr -n user.colour -v blue tree/doc/big.txt
mkdir -m 2775 tree/setgid && mkdir -m 0500 tree/readonly-dir && : > tree/setgid/.wh.removed && touch -d @0 tree/setgid/.wh.removed
printf x > "tree/$(printf 'n%.0s' $(seq 200))" && printf y > "tree/new
line" && touch -h -d '1960-01-01 UTC' "tree/new
line" && touch -d '2200-01-01 UTC' tree/doc/nothing
tar -C tree --xattrs --sort=name -S -czf a.tgz . && mkdir one && tar -C one --xattrs --same-permissions -xf a.tgz && same tree one "tar and back"
getfattr -n user.colour --only-values one/doc/big.txt && echo
tar -C tree --sort=name -cf a.tar . && tar -df a.tar -C one && tar tvf a.tar | wc -l
tar -rf a.tar -C tree/src "file 1.txt" && tar tf a.tar | tail -1 && tar --delete -f a.tar "file 1.txt" && tar tf a.tar | wc -l
stat -c '%b' one/doc/hole | awk '{print ($1 * 512 < 200000) ? "sparse" : "full"}'
tar --listed-incremental="$SCRATCH/snar" -cf l0.tar tree && echo more > tree/more && tar --listed-incremental="$SCRATCH/snar" -cf l1.tar tree && tar tf l1.tar | grep -v '/$'
(cd tree && find . -print0 | sort -z | cpio -0o --quiet -H newc > ../a.cpio) && mkdir two && (cd two && cpio -idm --quiet < ../a.cpio) && diff <(listing tree) <(listing two) && echo "cpio and back"
chmod u+w tree/readonly-dir one/readonly-dir && rm -rf tree one two && ls
