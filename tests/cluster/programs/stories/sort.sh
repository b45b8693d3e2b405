#: what    sort -T in the folder, join, uniq, comm, xargs -P, parallel writers, mktemp, mkfifo between processes, named sockets, flock(1)
#: needs   sort xargs flock
seq 60000 | shuf --random-source=/bin/ls > in && mkdir tmp && sort -n -S 100k -T tmp in > out && seq 60000 | cmp - out && ls tmp && sort -m out out | uniq | cmp - out && comm -12 <(sort in) <(sort out) | wc -l
seq 60 | xargs -P 8 -I{} sh -c 'echo {} > x{}; mv x{} y{}; cat y{} > z{}; rm y{}' && cat z* | sort -n | cmp - <(seq 60) && ls | wc -l
seq 40 | xargs -P 8 -I{} sh -c 'flock lock sh -c "n=\$(cat count 2> /dev/null || echo 0); echo \$((n + 1)) > count"' && cat count && flock -n lock true && (flock -s 9 && flock -s -n lock true && ! flock -n -x lock true) 9< lock && echo locks
mkfifo pipe && (echo through > pipe &) && cat pipe && mktemp -p . -d tXXXXXX > /dev/null && mktemp -p . fXXXXXX > /dev/null && ls -d t?????? f?????? | wc -l
python3 - <<'P'
import os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.bind("socket")
server.listen()
client = socket.socket(socket.AF_UNIX)
client.connect("socket")
client.send(b"hello")
print(server.accept()[0].recv(10), os.path.exists("socket"))
os.unlink("socket")
P
(set -C; echo $$ > pidfile) 2> /dev/null && (set -C; echo $$ > pidfile) 2> /dev/null || echo held; rm pidfile && mkdir lockdir && (mkdir lockdir 2> /dev/null || echo held) && rmdir lockdir
