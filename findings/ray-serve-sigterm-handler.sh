#!/usr/bin/env bash
# Ray 2.60.0: ray.init() replaces the process's own SIGTERM handler, and says nothing. A service that sets a handler for
# its clean shutdown, as one does first thing, and starts Ray after it never sees its handler called. Set after
# ray.init(), the handler stays and is called.
#
# Seen on 2026-11-29 (Python 3.11):
#   handler set before ray.init(): replaced, not called
#   handler set after ray.init():  kept, called
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q ray==2.60.0
cat > "$work/try.py" <<'PY'
import os
import signal
import sys
import time

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
import ray

called = []


def mine(number, frame):
    called.append(number)


def start():
    ray.init(
        num_cpus=1, object_store_memory=80_000_000, include_dashboard=False, log_to_driver=False,
        logging_level="ERROR", configure_logging=True,
    )


order = sys.argv[1]
if order == "before":
    signal.signal(signal.SIGTERM, mine)
start()
if order == "after":
    signal.signal(signal.SIGTERM, mine)
kept = signal.getsignal(signal.SIGTERM) is mine
if kept:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.5)
print("kept" if kept else "replaced", "called" if called else "not called")
ray.shutdown()
PY
for order in before after; do
    seen=$(timeout 120 "$work/venv/bin/python" "$work/try.py" "$order" 2> /dev/null | tail -1)
    echo "handler set $order ray.init(): $seen"
    case "$order $seen" in
    "before replaced not called" | "after kept called") ;;
    *) echo CHANGED; exit 1 ;;
    esac
done
