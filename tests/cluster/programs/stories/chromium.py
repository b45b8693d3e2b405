#: what    a browser downloads two files into the folder: .crdownload, then renamed
#: needs   chromium python:playwright
#: alone
#: limit   120
from __future__ import annotations

import hashlib
import http.server
import os
import tempfile
import threading
import time

from playwright.sync_api import sync_playwright

CONTENT = os.urandom(3_000_000)


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        if not self.path.endswith(".bin"):
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            name = b"file" if self.path == "/f" else b"other"
            self.wfile.write(b'<a href="/%s.bin" id="get">get</a>' % name)
            return
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(CONTENT)))
        self.send_header("Content-Disposition", f"attachment; filename={self.path[1:]}")
        self.end_headers()
        for at in range(0, len(CONTENT), 100_000):
            self.wfile.write(CONTENT[at : at + 100_000])
            time.sleep(0.02)

    def log_message(self, *_: object) -> None:
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
threading.Thread(target=server.serve_forever, daemon=True).start()
here = os.getcwd()
seen: set[str] = set()
with tempfile.TemporaryDirectory() as profile, sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
    page = browser.new_page()
    about = page.context.new_cdp_session(page).send("Target.getTargetInfo")["targetInfo"]
    to = {"behavior": "allow", "browserContextId": about["browserContextId"], "downloadPath": here}
    browser.new_browser_cdp_session().send("Browser.setDownloadBehavior", to)
    for wanted in ("file.bin", "other.bin"):
        page.goto(f"http://127.0.0.1:{server.server_port}/{wanted[0]}")
        page.click("#get")
        end = time.monotonic() + 40
        while time.monotonic() < end:
            seen.update(os.listdir())
            if os.path.exists(wanted) and not any("crdownload" in name for name in os.listdir()):
                break
            time.sleep(0.02)
        got = hashlib.sha256(open(wanted, "rb").read()).hexdigest()
        assert got == hashlib.sha256(CONTENT).hexdigest(), (wanted, os.listdir())
    browser.close()
assert any("crdownload" in name for name in seen), seen
print(sorted(os.listdir()))
server.shutdown()
