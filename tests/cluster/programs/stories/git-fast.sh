#: what    commit, merge, gc, fsck, clone by hard links
#: needs   git
#: fast
git init -q -b main work && cd work
for i in 1 2 3 4 5 6 7 8; do seq "$i" $((i * 20)) > "f$i.txt"; done
git add -A && git commit -qm first && git checkout -qb topic && echo topic > topic && git add -A && git commit -qm topic
git checkout -q main && git mv f1.txt g1.txt && git commit -qam moved && git merge -q --no-edit topic && git rev-parse HEAD
git gc -q && git fsck --full --strict && git clone -q --local . ../clone && cd ../clone && git status --porcelain && ls
find .git/objects -name '*.pack' -links 2 | wc -l
