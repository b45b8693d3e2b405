#: what    emacs: backup files, version control, file locks that are dangling symlinks, auto-save, backup by copying; nano with backup and lock files
#: needs   emacs nano
. "$STORIES/_lib.sh"
seq 100 > file && chmod 640 file && ln file hard
emacs -Q --batch --eval '(progn (find-file "file") (goto-char (point-max)) (insert "more\n") (princ (format "locked: %s\n" (stringp (file-symlink-p ".#file")))) (princ (format "by: %s\n" (file-locked-p "file"))) (save-buffer))' 2> /dev/null && ls -A && listing .
emacs -Q --batch --eval '(progn (setq version-control t backup-by-copying t) (find-file "file") (insert "again\n") (do-auto-save) (princ (format "%s\n" (file-exists-p "#file#"))) (save-buffer) (set-file-modes "file" #o600) (insert "x") (save-buffer))' 2> /dev/null && listing .
emacs -Q --batch --eval '(progn (find-file "file") (sleep-for 0.1) (write-region "from elsewhere\n" nil "file" nil 1) (set-visited-file-modtime 0) (princ (format "changed elsewhere: %s\n" (not (verify-visited-file-modtime)))))' 2> /dev/null
emacs -Q --batch --eval '(dired ".")' --eval '(princ (buffer-string))' 2> /dev/null | awk 'NF > 7 {print $1, $2, $NF}' | grep -v '\.$'
printf '\030' > keys; echo nano > nfile
script -qec "nano --backup --locking nfile" /dev/null < <(sleep 0.7; printf 'typed '; sleep 0.3; ls -A1 | grep -F .nfile.swp > "$SCRATCH/lock" || true; printf '\017'; sleep 0.2; printf '\r'; sleep 0.3; printf '\030'; sleep 0.3) > /dev/null 2>&1 || true
cat "$SCRATCH/lock" nfile nfile~ && ls -A
