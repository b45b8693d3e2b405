#: what    Python's mailbox: mbox with its dot lock and fcntl lock, two writers; Maildir by two deliverers and a
#: what    reader; MH; then mutt reads and moves
#: needs   mutt
from __future__ import annotations

import mailbox
import os
import subprocess
import sys
from email.message import EmailMessage

WRITER = """
import mailbox, sys, time
from email.message import EmailMessage
who, box = sys.argv[1], sys.argv[2]
for number in range(30):
    message = EmailMessage()
    message["From"] = f"{who}@example.org"
    message["Subject"] = f"{who} {number}"
    message.set_content("text " * 100)
    if box == "mbox":
        inbox = mailbox.mbox("inbox")
        while True:
            try:
                inbox.lock()
                break
            except mailbox.ExternalClashError:
                time.sleep(0.01)
        inbox.add(message)
        inbox.flush()
        inbox.unlock()
        inbox.close()
    else:
        mailbox.Maildir("Mail").add(message)
"""
mailbox.mbox("inbox").close()
mailbox.Maildir("Mail")
for box in ("mbox", "maildir"):
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, who, box]) for who in ("ann", "bob")]
    assert [writer.wait() for writer in writers] == [0, 0]
wanted = sorted(f"{who} {number}" for who in ("ann", "bob") for number in range(30))
inbox = mailbox.mbox("inbox")
print("mbox", sorted(message["Subject"] for message in inbox) == wanted, len(inbox))
inbox.lock()
for key in list(inbox.keys())[:10]:
    inbox.remove(key)
inbox.flush()
print(len(inbox), sorted(os.listdir()))
inbox.unlock()
inbox.close()
mail = mailbox.Maildir("Mail")
print("maildir", sorted(message["Subject"] for message in mail) == wanted, len(os.listdir("Mail/new")))
for key in mail.keys():
    message = mail[key]
    message.set_subdir("cur")
    message.add_flag("S")
    mail[key] = message
print(len(os.listdir("Mail/new")), len(os.listdir("Mail/cur")), {name.split(":")[1] for name in os.listdir("Mail/cur")})
mh = mailbox.MH("mh")
mh.lock()
mh.add(EmailMessage())
mh.unlock()
print(sorted(os.listdir("mh")))
rc = os.environ["SCRATCH"] + "/muttrc"
open(rc, "w").write(
    "set from=a@example.org mbox_type=mbox record='' move=no\n"
    "set confirmappend=no confirmcreate=no delete=yes quit=yes\n"
)
for keys in (
    "<tag-pattern>~s.bob<enter><tag-prefix><copy-message>kept<enter><quit>",
    "<delete-pattern>~s.ann<enter><sync-mailbox><quit>",
):
    argv = ["script", "-qec", f"TERM=xterm mutt -n -F {rc} -f inbox -e \"push '{keys}'\"", "/dev/null"]
    subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=60, check=False)
print("kept", len(mailbox.mbox("kept")), "inbox", len(mailbox.mbox("inbox")), sorted(os.listdir()))
