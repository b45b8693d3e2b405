#: what    a scanner by inode and mtime finds nothing to do the second time; changes on both sides are exchanged; hg and svn working copies
#: needs   unison hg svn
. "$STORIES/_lib.sh"
tree "$SCRATCH/one" && rm "$SCRATCH/one/doc/pipe" && mkdir two
sync() { UNISON="$SCRATCH/unison" unison "$SCRATCH/one" two -batch -auto -times -owner -fastcheck true -terse -ui text 2>&1 | grep -E 'transferred|Nothing|failed|Error' | sed 's/ *at .*//; s/(\(.*\)).*/\1/' || true; }
sync; sync; echo more >> "$SCRATCH/one/src/file 2.txt"; echo more >> two/.hidden; rm "two/src/file 3.txt"; sync; sync; diff -r --no-dereference "$SCRATCH/one" two && echo same
export HGUSER=a HGRCPATH=/dev/null
hg init repo && cd repo && seq 100 > a && ln -s a b && hg add -q a b && hg commit -qm first -d '0 0' && hg branch -q x && echo more >> a && hg commit -qm second -d '0 0' && hg update -q default && hg merge -q x && hg commit -qm merge -d '0 0' && hg verify -q && hg log -T '{node|short}\n' && cd .. && hg clone -q repo clone && hg -R clone status && diff -r -x .hg repo clone
svnadmin create svn && svn checkout -q "file://$PWD/svn" wc && cd wc && seq 100 > a && mkdir d && echo b > d/b && svn add -q a d && svn commit -qm first && svn move -q a d/a && svn commit -qm moved && svn update -q && svn status && svn log -q | grep -c '^r' && svn cleanup && cd .. && svnadmin verify -q svn && echo verified
