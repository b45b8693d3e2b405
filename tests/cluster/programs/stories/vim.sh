#: what    vim with backupcopy=yes, no, auto, with backup, swap and undo files; through a hard link and a symlink; recover from a swap file
#: needs   vim
. "$STORIES/_lib.sh"
edit() { vim -N -u NONE -i NONE -n -es -c "$1" -c 'normal Gomore' -c wq "$2" < /dev/null || true; }
for how in yes no auto; do
    mkdir "$how" && cd "$how" && seq 1000 > file && chmod 640 file && ln file hard && ln -s file soft
    edit "set backupcopy=$how backup writebackup" file && edit "set backupcopy=$how writebackup nobackup" soft && edit "set backupcopy=$how nowritebackup" hard
    listing . && cd ..
done
mkdir undo && cd undo && echo one > file && vim -N -u NONE -i NONE -n -es -c 'set undofile undodir=.' -c 'normal Gotwo' -c wq file && vim -N -u NONE -i NONE -n -es -c 'set undofile undodir=.' -c 'undo' -c wq file && cat file && ls -A && cd ..
mkdir swap && cd swap && seq 100 > file
vim -N -u NONE -i NONE -es -c 'set directory=. updatecount=1' -c 'edit file' -c 'normal Gounsaved' -c 'preserve' -c 'sleep 60' file > /dev/null 2>&1 < /dev/null & pid=$!
for _ in $(seq 100); do [ -e .file.swp ] && break; sleep 0.05; done; sleep 0.5; ls -A; kill -9 $pid; wait $pid 2> /dev/null || true
vim -N -u NONE -i NONE -es -c 'set directory=.' -c 'recover file' -c 'write! recovered' -c 'qa!' < /dev/null; tail -1 recovered
