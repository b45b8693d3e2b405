#: what    zip, update, unzip, 7zz a/x/t/d, gzip, bzip2, xz, zstd
#: needs   zip unzip 7zz xz
. "$STORIES/_lib.sh"
tree tree && rm tree/doc/pipe
zip -qry --symlinks a.zip tree && unzip -tq a.zip && mkdir one && unzip -q a.zip -d one && diff -r --no-dereference tree one/tree && echo same
echo more > tree/more && zip -qryu --symlinks a.zip tree && unzip -l a.zip | tail -1 | awk '{print $2}' && zip -qd a.zip tree/more && unzip -l a.zip | tail -1 | awk '{print $2}'
7zz a -bd -bso0 -snl a.7zz tree && 7zz t -bd -bso0 a.7z && mkdir two && 7zz x -bd -bso0 -snl -otwo a.7z && diff -r --no-dereference tree two/tree && echo same
7zz d -bd -bso0 a.7zz tree/more && 7zz l -ba a.7z | wc -l
for tool in gzip bzip2 xz; do $tool -k tree/doc/big.txt && ls tree/doc && $tool -t tree/doc/big.txt.* && $tool -dc tree/doc/big.txt.* | cmp - tree/doc/big.txt && rm tree/doc/big.txt.*; done
gzip tree/doc/big.txt && stat -c '%y %a' tree/doc/big.txt.gz && gunzip tree/doc/big.txt.gz && stat -c '%y %s' tree/doc/big.txt
