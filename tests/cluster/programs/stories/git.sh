#: what    init, add, commit, branch, merge, rebase, stash, bisect, tag, worktree, gc --aggressive, fsck --full --strict, clone by hard links, bundle, submodule
#: needs   git
. "$STORIES/_lib.sh"
git config --global init.defaultBranch main
git config --global protocol.file.allow always
mkdir work && cd work && git init -q
for i in $(seq 60); do mkdir -p "d$((i % 7))"; seq "$i" $((i * 20)) > "d$((i % 7))/f$i.txt"; done
ln -s d1 link && printf '#!/bin/sh\necho hi\n' > run.sh && chmod +x run.sh
git add -A && git commit -qm first && git rev-parse HEAD
for i in $(seq 12); do echo "line $i" >> d3/f3.txt; git commit -qam "change $i"; done
git checkout -qb topic HEAD~5
git mv d4/f4.txt d4/renamed.txt && git rm -q d5/f5.txt && echo topic > topic.txt && git add -A && git commit -qm topic
git checkout -q main && git merge -q --no-edit topic && git rev-parse HEAD
git checkout -qb side HEAD~3 && echo side > side.txt && git add side.txt && git commit -qm side && git rebase -q main && git rev-parse HEAD
git checkout -q main && git merge -q --ff-only side
echo conflict-a > topic.txt && git commit -qam a && git checkout -qb other HEAD~1 && echo conflict-b > topic.txt && git commit -qam b
git merge main || git status --porcelain
git merge --abort && git checkout -q main
echo changed >> run.sh && echo new > untracked && git stash -qu && git status --porcelain && git stash pop -q && git status --porcelain
git checkout -q run.sh && git clean -fdq && git status --porcelain
git bisect start main "$(git rev-list --max-parents=0 main)" > /dev/null
git bisect run sh -c '! grep -q "line 9" d3/f3.txt' | grep 'is the first bad commit'
git bisect reset > /dev/null 2>&1
git worktree add -q ../tree topic && git -C ../tree log --oneline | wc -l && git worktree list | wc -l && git worktree remove ../tree
git tag -am "A release" v1 && git gc -q --aggressive --prune=now && git fsck --full --strict && git count-objects -v | grep -E '^(count|packs|garbage)'
cd .. && git clone -q --local work clone && git -C clone status --porcelain && git -C clone fsck --full --strict
find clone/.git/objects -name '*.pack' -links 2 | wc -l
git clone -q --no-hardlinks work copy && git clone -q --depth 2 "file://$PWD/work" shallow && git -C shallow log --oneline | wc -l
git init -q --bare bare.git && git -C work push -q ../bare.git --all && git -C work push -q ../bare.git --tags && git -C bare.git fsck --full --strict
(cd clone && echo more > more && git add more && git commit -qm more && git push -q ../bare.git HEAD:refs/heads/more)
git -C work fetch -q ../bare.git more && git -C work rev-parse FETCH_HEAD
git -C work bundle create -q ../all.bundle --all && git -C work bundle verify -q ../all.bundle && git clone -q all.bundle from-bundle
mkdir super && cd super && git init -q && git submodule --quiet add ../bare.git sub && git commit -qm sub && git submodule status | cut -c2-41
cd .. && git clone -q --recurse-submodules super super-clone && git -C super-clone/sub status --porcelain
git -C work archive --format=tar v1 | sha256sum
diff -r --exclude=.git work copy && diff -r --exclude=.git work from-bundle
listing work | grep -v ' \./\.git'
rm -rf clone copy shallow super super-clone && ls
