#: what    sed -i with and without backup, through links; perl -i; ed; patch; awk into place; tee -a; sponge-like saves; >| and exec >>
#: needs   sed perl ed patch
#: fast
. "$STORIES/_lib.sh"
seq 100 > f && chmod 604 f && ln f hard && ln -s f soft
sed -i 's/^7/seven/' f && cat hard | sha256sum && sed -i.bak --follow-symlinks 's/^8/eight/' soft && perl -pi -e 's/^9/nine/' f && perl -pi.orig -e 's/^6/six/' f && listing .
printf '5d\n$a\nend\n.\nw\nq\n' | ed -s f && cp f g && echo changed >> g && (diff -u f g > p || true) && patch -s f < p && cmp f g && patch -s -R -b f < p && ls -A
echo one | tee -a log > /dev/null && exec 4>> log && echo two >&4 && echo three >> log && echo four >&4 && exec 4>&- && cat log
set -o noclobber && (echo no > log) 2> /dev/null || echo refused; echo yes >| log && cat log && set +o noclobber
exec 5<> log && read -r line <&5 && echo "read $line" && echo after >&5 && exec 5>&- && cat log
: > log && [ ! -s log ] && { echo a; cat log; echo b; } >> log && cat log && sort -o f f && sort -c f && shuf f -o f && wc -l f
