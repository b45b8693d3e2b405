#: what    headless: make a document, convert to odt, docx, pdf; the lock file while a document is open; save over it
#: needs   soffice
#: limit   400
printf 'Hello\nworld\n' > a.txt
office() { soffice -env:UserInstallation="file://$SCRATCH/profile" --headless --norestore "$@" > "$SCRATCH/said" 2>&1; }
office --convert-to odt a.txt && office --convert-to docx a.odt && office --convert-to pdf a.odt && ls -A && unzip -tq a.odt | sed 's/ in .*//' && head -c 4 a.pdf && echo
office --convert-to txt:Text --outdir back a.docx && tail -c +1 back/a.txt | tr -d '\r\357\273\277'
soffice -env:UserInstallation="file://$SCRATCH/profile" --headless --norestore a.odt > /dev/null 2>&1 & pid=$!
for _ in $(seq 200); do [ -e ".~lock.a.odt#" ] && break; sleep 0.1; done; ls -A | grep lock
pkill -TERM -P $pid 2> /dev/null; kill $pid; wait $pid || true; for _ in $(seq 50); do [ -e ".~lock.a.odt#" ] || break; sleep 0.1; done; cp a.odt b.odt && cmp a.odt b.odt && echo saved
