"""Ten kills of an indexing run at random moments: what is in the index at the end, and what lies beside it.

Command: python -m benchmarks.search_kills PHOTOS [--kills 10] [--seed 0]
Needs: pip install -e '.[search]'
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cliplet.search.index import Index
from cliplet.search.store import Row

SLOW = """
import sys
from cliplet.search import update
from cliplet.search.index import Index
update.COMMIT = 64
print("ready", flush=True)
Index.make(sys.argv[1]).update([sys.argv[2]])
"""


def content(address: Path) -> dict[str, tuple[str, bytes]]:
    """Path to hash and vector."""
    index = Index.open(address)
    rows: dict[str, Row] = index.store.rows()
    loaded = index.refresh()
    vectors = dict(zip(loaded.paths, loaded.matrix, strict=True))
    return {path: (row.hash, vectors[path].tobytes()) for path, row in rows.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        killed, whole = Path(folder) / "killed.lance", Path(folder) / "whole.lance"
        command = [sys.executable, "-c", SLOW, str(killed), str(arguments.photos)]
        left, steps = 0, []
        for _ in range(arguments.kills):
            run = subprocess.Popen(command, stdout=subprocess.PIPE)
            assert run.stdout is not None
            run.stdout.readline()
            time.sleep(rng.uniform(0.3, 2.0))
            run.send_signal(signal.SIGKILL)
            run.wait()
            left += sum(path.stat().st_size for path in killed.glob("**/.tmp*"))
            steps.append(len(Index.make(killed).store))
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        Index.make(whole).update([arguments.photos])
        a, b = content(killed), content(whole)
        temporary = sum(path.stat().st_size for path in killed.glob("**/.tmp*"))
        differing = sum(a.get(path) != row for path, row in b.items())
        print(f"{arguments.kills} kills, photos kept after each: {steps}")
        print(f"temporary bytes after the kills {left}, after the next run {temporary}")
        print(f"photos {len(a)} of {len(b)}, of which other than in an uninterrupted run: {differing}")


if __name__ == "__main__":
    main()
