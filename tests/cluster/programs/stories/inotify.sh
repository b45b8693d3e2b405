#: what    inotifywait: what programs on this mount do is told
#: needs   inotifywait
mkdir d && inotifywait -q -m -r -t 4 --format '%e %f' -e create,modify,close_write,moved_from,moved_to,delete,attrib d > "$SCRATCH/events" & pid=$!
sleep 1 && echo one > d/a && echo two >> d/a && mv d/a d/b && chmod 600 d/b && mkdir d/sub && echo x > d/c.new && mv d/c.new d/b && rm d/b && rmdir d/sub
wait $pid || true; cat "$SCRATCH/events"
