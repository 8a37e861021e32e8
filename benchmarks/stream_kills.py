"""Kill a stream again and again, at random moments, and look for rows lost, repeated or changed.

    python -m benchmarks.stream_kills --data DIR --engine local --kills 50
    python -m benchmarks.stream_kills --data DIR --engine ray --kills 50 --seed 2

A run of 1,000 real pairs (--pairs) in parts of 25 is begun; after a random time its driver or one of its workers is
killed by SIGKILL, and the same command is given again until it ends by itself. Then its rows are compared with those of
a run that was never stopped, and the next run begins, until there were enough kills. A part that was given up because
it was killed three times is run again by --retry-failed and counted.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks.stream_workers import shards

from cliplet.data.captions import stream_captions

SIZE, ROWS = 250, 25


def command(folder: Path, out: Path, engine: str) -> list[str]:
    refs = folder.parent / "refs.json"
    more = ["--refs", str(refs), "--metrics", "bleu,rouge,cider", "--diversity"] if refs.exists() else []
    return [sys.executable, "-m", "cliplet", "score", str(folder), "--out", str(out), "--engine", engine,
            "--workers", "2", "--threads", "1", "--part-rows", str(ROWS), *more]  # fmt: skip


def write_references(path: Path, folder: Path) -> None:
    """Two references of each photo: the captions of the next two."""
    found: dict[str, str] = {}
    for shard in sorted(folder.glob("*.tar")):
        found |= {f"{e.image}": e.caption for e in stream_captions(shard)}
    names, texts = list(found), list(found.values())
    refs = {name: [texts[(i + k) % len(texts)] for k in (1, 2)] for i, name in enumerate(names)}
    path.write_text(json.dumps(refs), encoding="utf-8")


def summary_of(out: Path) -> object:
    """All that is said of all rows together, but for the folder's own name."""
    return json.loads((out / "summary.json").read_text(encoding="utf-8"))["summary"]


def workers_of(pid: int, engine: str) -> list[int]:
    """The worker processes below a driver that run parts."""
    found, ahead = [], [pid]
    while ahead:
        one = ahead.pop()
        try:
            for task in Path(f"/proc/{one}/task").iterdir():
                ahead += map(int, (task / "children").read_text().split())
            words = Path(f"/proc/{one}/cmdline").read_bytes()
        except OSError:
            continue
        if one != pid and (b"ray::Actor" in words if engine == "ray" else b"spawn_main" in words):
            found.append(one)
    return found


def rows_of(out: Path) -> list[str]:
    """A hash of every row, in the parts' order."""
    from pyarrow import parquet

    files = sorted((out / "parts").glob("part-*.parquet"))
    return [hashlib.sha256(repr(row).encode()).hexdigest()[:16] for file in files
            for row in parquet.read_table(file).to_pylist()]  # fmt: skip


def killed_run(
    folder: Path, out: Path, engine: str, dice: random.Random, most: int, longest: float
) -> Counter[str]:
    """Run to the end, killing at random; how often what was killed."""
    done: Counter[str] = Counter()
    env = {**os.environ, "RAY_ADDRESS": "local", "OMP_NUM_THREADS": "1"}
    more: list[str] = []
    for _ in range(10 * most + 20):
        driver = subprocess.Popen([*command(folder, out, engine), *more], stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL, env=env)  # fmt: skip
        while driver.poll() is None and sum(done.values()) < most:
            worker = dice.random() < 0.5
            while worker and driver.poll() is None and not workers_of(driver.pid, engine):
                time.sleep(0.1)  # a worker must have begun to be killed
            end = time.monotonic() + dice.uniform(0.1, longest)
            while time.monotonic() < end and driver.poll() is None:
                time.sleep(0.02)
            if driver.poll() is not None:
                break
            workers = workers_of(driver.pid, engine)
            if worker and workers:
                os.kill(dice.choice(workers), signal.SIGKILL)
                done["worker"] += 1
                continue
            driver.send_signal(signal.SIGKILL)
            done["driver"] += 1
            break
        if driver.wait() == 0:
            return done
        failed = list((out / "failed").glob("*.json")) if (out / "failed").is_dir() else []
        more = ["--retry-failed"] if driver.returncode == 1 and failed else []
        if more:
            print(f"  given up after three kills and run again: {len(failed)} parts", flush=True)
    raise SystemExit("the run does not come to its end")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("CLIPLET_TEST_DATA"))
    parser.add_argument("--engine", choices=["local", "ray"], default="local")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--pairs", type=int, default=1_000)
    parser.add_argument(
        "--references", action="store_true", help="with metrics on references and --diversity"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--longest", type=float, default=6.0, help="seconds between two kills, at most")
    parser.add_argument(
        "--seconds", type=float, default=200, help="no new run is begun after so many seconds"
    )
    given = parser.parse_args()
    dice, kills = random.Random(given.seed), Counter[str]()
    lost = repeated = changed = runs = 0
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        folder, out = Path(scratch) / "shards", Path(scratch) / "out"
        shards(given.data, folder, given.pairs, SIZE)
        if given.references:
            write_references(Path(scratch) / "refs.json", folder)
        subprocess.run(
            command(folder, out, "local"), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        whole, said = rows_of(out), summary_of(out)
        assert len(whole) == len(set(whole)) == given.pairs
        shutil.rmtree(out)
        while sum(kills.values()) < given.kills and time.monotonic() - start < given.seconds:
            most = given.kills - sum(kills.values())
            kills += killed_run(folder, out, given.engine, dice, most, given.longest)
            rows, runs = rows_of(out), runs + 1
            counted = Counter(rows)
            lost += sum(row not in counted for row in whole)
            repeated += sum(n - 1 for n in counted.values())
            changed += sum(row not in set(whole) for row in counted)
            print(f"run {runs}: {dict(kills)} so far, {len(rows)} rows, equal: {rows == whole}, "
                  f"summary equal: {summary_of(out) == said}", flush=True)  # fmt: skip
            shutil.rmtree(out)
    killed = (
        f"{kills['driver']} drivers and {kills['worker']} workers killed in {runs} runs of {given.pairs} rows"
    )
    print(
        f"{given.engine}, seed {given.seed}: {killed}: {lost} rows lost, {repeated} repeated, {changed} changed"
    )


if __name__ == "__main__":
    main()
