#: what    find by -newer, -size, -links, -inum, -perm, -empty, -samefile, -xdev, -depth -delete; du, ls -laR, stat, df, rg, grep -r, file, wc, cmp, diff -r
#: needs   find rg file
#: fast
. "$STORIES/_lib.sh"
tree tree && rm -f tree/doc/pipe && touch -d '2025-03-05 UTC' mark && touch -d '2025-03-06 UTC' tree/src/deep/bytes.bin
find tree -newer mark | sort; find tree -type f -size +100k | sort; find tree -links +1 -type f | sort; find tree -empty | sort; find tree -perm 600; find tree -perm /4000
find tree -inum "$(stat -c %i tree/.hidden)"; find tree -samefile "tree/src/file 1.txt" | sort; find . -xdev -maxdepth 2 -printf '%d %f %y\n' | sort; find tree -xtype l; find -L tree -type f | sort | wc -l
find tree -newermt '2025-03-05' -type f; find tree -type d -links 2 | sort; find tree -noleaf | wc -l
ls -laR --time-style=+%s tree | awk 'NF > 6 {$5 = ($1 ~ /^d/) ? "-" : $5; if ($1 !~ /^d/) print $1, $2, $5, $6, $7, $8, $9}' ; ls -A | sort; ls -U tree/src | wc -l
du -s --apparent-size --exclude=none -b tree/src/*.txt | cut -f1 | head -3; du -sl --inodes tree | cut -f1; du -c tree/doc/hole | awk 'END {print ($1 < 200) ? "sparse" : "full"}'
df --output=fstype . > /dev/null && df -i . > /dev/null && stat -f -c '%l' . 
rg -c --sort path '^1' tree | sort; grep -rlI 99 tree | sort; grep -rc hidden tree --include='.h*'; file -b tree/src/deep/* tree/doc/hole | sed 's/with no line.*//'
cmp tree/doc/big.txt "tree/src/file 8.txt" | sed 's/,.*//' || true; diff -rq tree/src tree/doc | sort | head -5 || true
[ -d tree/empty ] && [ -u "tree/src/file 3.txt" ] && [ -k tree/empty ] && [ -h tree/dangling ] && [ ! -e tree/dangling ] && [ tree/doc/big.txt -ot mark ] && echo tests
find tree -depth -delete && ls
