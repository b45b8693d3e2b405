#: what    farms of symlinks to objects of mode 444 in folders of mode 555, as git-annex and stow make them; a deep path; 3,000 entries in one folder; rm -rf of it all
#: needs   sha256sum
mkdir objects farm
for i in $(seq 200); do echo "content $i" > t; k=$(sha256sum t | cut -c1-20); mkdir -p "objects/$k"; mv t "objects/$k/$k"; chmod 444 "objects/$k/$k"; chmod 555 "objects/$k"; ln -s "../objects/$k/$k" "farm/f$i"; done
cat farm/* | sha256sum && find farm -xtype f | wc -l && find -L farm -type f | wc -l && cp -aL farm real && diff -r farm real && cp -a farm farm2 && readlink farm2/f7 | sha256sum
stow() { for f in "$1"/*; do ln -s "$PWD/$f" "$2/$(basename "$f")"; done; }
mkdir target && stow real target && cat target/f9 && find target -lname '*f9*' -printf '%f\n' | sort
d=deep; for i in $(seq 60); do d="$d/level$i"; done; mkdir -p "$d" && echo bottom > "$d/file" && find deep -name file -printf '%d\n' && mv deep deeper && cat deeper/level1/*/*/*/*/level6/level7/../level7/level8/../../../../../../../../level1/level2/level3/*/*/*/*/*/*/*/level12/.././../level11/level12/nothing 2> /dev/null || echo absent
mkdir many && (cd many && seq 3000 | xargs touch && ls | wc -l && ls -f | sort -u | wc -l && rm -f ./*7 && ls | wc -l && find . -name '*9*' -delete && ls | wc -l)
ln -s loop loop && (cat loop 2>&1 || true) && ln -s . self && ls -d self/self/self/objects && rm -rf farm objects many deeper real target 2> /dev/null; chmod -R u+w . 2> /dev/null || true; rm -rf objects real; ls
