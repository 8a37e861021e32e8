#!/usr/bin/env bash
# Playwright 1.65.2 (Python) and Debian's Chromium: on a page with the policy `script-src 'self'`,
# page.wait_for_function("EXPRESSION") works where the expression is true at once, and raises EvalError ("'unsafe-eval'
# is not an allowed source") where it has to be asked again: the first try is made by the debugger, which no policy
# binds, the later ones by the page. page.evaluate of the same expression always works. So a test of a page with a strict
# policy passes on a fast machine and fails on a slow one. A loop of evaluate, or expect(locator), does what is meant.
#
# Seen on 2026-11-29 (Chromium 150, Python 3.11):
#   true at once:    ok
#   true after 0.5 s: EvalError
#   evaluate:        ok
set -euo pipefail
command -v chromium > /dev/null || { echo "needs Debian's chromium"; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q playwright==1.65.2
cat > "$work/try.py" <<'PY'
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from playwright.sync_api import Error, sync_playwright


class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        script = self.path == "/later.js"
        body = b"setTimeout(() => { document.title = 'ready' }, 500)" if script else (
            b"<!doctype html><title>not yet</title><script src='later.js'></script><p>page</p>"
        )
        self.send_response(200)
        self.send_header("Content-Type", "text/javascript" if script else "text/html")
        self.send_header("Content-Security-Policy", "default-src 'none'; script-src 'self'")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
threading.Thread(target=server.serve_forever, daemon=True).start()
seen = {}


def tried(name, do):
    try:
        do()
        seen[name] = "ok"
    except Error as error:
        assert "unsafe-eval" in str(error), error
        seen[name] = "EvalError"
    print(f"{name}: {seen[name]}")


with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path="/usr/bin/chromium")
    page = browser.new_page()
    address = f"http://127.0.0.1:{server.server_port}/"
    page.goto(address)
    tried("true at once", lambda: page.wait_for_function("document.readyState.length > 0", timeout=5000))
    page.goto(address)
    tried("true after 0.5 s", lambda: page.wait_for_function("document.title === 'ready'", timeout=5000))
    tried("evaluate", lambda: page.evaluate("document.title === 'ready'"))
    browser.close()
server.shutdown()
assert seen == {"true at once": "ok", "true after 0.5 s": "EvalError", "evaluate": "ok"}, "CHANGED"
PY
"$work/venv/bin/python" "$work/try.py"
