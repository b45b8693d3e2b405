# Words that stories share: `. "$STORIES/_lib.sh"`.

# Everything below a folder: kind, mode, owner, links and size of what is no folder, mtime to the nanosecond, target. Then contents.
listing() {
    (cd "$1" && find . -type d -printf '%y %m %U:%G %p\n' -o -printf '%y %m %U:%G %n %s %p %l\n' | sort -k 4
     find . -type f -print0 | sort -z | xargs -0r sha256sum)
}
# The same with mtimes, of trees whose mtimes somebody set.
dated() { (cd "$1" && find . -printf '%T@ %p\n' | sort); listing "$1"; }
# Two trees that have to be the same in everything.
same() { diff <(dated "$1") <(dated "$2") && echo "same: $3"; }
# A small tree with all kinds of things in it, everything dated.
tree() {
    mkdir -p "$1/src/deep/deeper" "$1/doc" "$1/empty"
    for i in 1 2 3 4 5 6 7 8; do seq "$i" $((i * 700)) > "$1/src/file $i.txt"; done
    seq 400000 > "$1/doc/big.txt"
    : > "$1/doc/nothing"
    echo hidden > "$1/.hidden"
    printf 'not\000text\377' > "$1/src/deep/bytes.bin"
    ln "$1/src/file 1.txt" "$1/src/deep/hard link"
    ln -s "../file 2.txt" "$1/src/deep/link"
    ln -s /nowhere "$1/dangling"
    mkfifo "$1/doc/pipe"
    truncate -s 3M "$1/doc/hole" && printf end >> "$1/doc/hole"
    chmod 750 "$1/src" && chmod 600 "$1/doc/nothing" && chmod 4755 "$1/src/file 3.txt" && chmod 1777 "$1/empty"
    chmod 444 "$1/src/file 4.txt"
    find "$1" -exec touch -h -d '2025-03-04 05:06:07.123456789 UTC' {} +
}
