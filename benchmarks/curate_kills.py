"""Kill `cliplet curate` at random moments, again and again, and compare with a run that was never stopped.

    python -m benchmarks.curate_kills --rounds 5 --seed 0 [--engine ray]

A round kills the same command (all its processes with it) until one ends by itself. All outputs but times must be those
of the undisturbed run, byte for byte; rows lost, repeated or changed are counted.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.curate.data import good_rows, output, tiny, write_shard

SHARDS, PAIRS = 40, 6


def rows(folder: Path) -> list[str]:
    return sorted(
        json.loads(line)["image"]
        for name in ("kept", "removed")
        for line in (folder / f"{name}.jsonl").read_text().splitlines()
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=["local", "ray"], default="local")
    given = parser.parse_args()
    os.environ["RAY_ADDRESS"] = "local"  # a Ray of its own, which the kills may end
    rng = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pairs = good_rows(SHARDS * PAIRS)
        for i in range(0, len(pairs), 7):
            pairs[i] = (pairs[i // 2][0], pairs[i][1])
        for i in range(SHARDS):
            write_shard(folder / "in" / f"{i:05d}.tar", pairs[PAIRS * i : PAIRS * (i + 1)], PAIRS * i)
        command = [sys.executable, "-m", "cliplet", "curate", str(folder / "in"), "--model", tiny(folder), "--engine",
                   given.engine, "--min-cosine", "-1", "--workers", "1", "--out"]  # fmt: skip
        start = time.monotonic()
        subprocess.run([*command, str(folder / "once")], check=True, capture_output=True)
        took = time.monotonic() - start
        print(f"{SHARDS} shards, {len(pairs)} pairs, {given.engine}: {took:.1f} s undisturbed", flush=True)
        expected, kills, wrong = output(folder / "once"), 0, 0
        for number in range(given.rounds):
            out = folder / f"killed-{number}"
            while True:
                process = subprocess.Popen(
                    [*command, str(out)],
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
                try:
                    process.wait(rng.uniform(0.1, 0.7) * took)
                    break
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                    kills += 1
            found = output(out)
            same = found == expected and rows(out) == rows(folder / "once")
            wrong += not same
            print(
                f"round {number + 1}: {kills} kills so far, {'the same files' if same else 'OTHER FILES'}",
                flush=True,
            )
            if not same:
                print(
                    {name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)}
                )
        print(f"{kills} kills in {given.rounds} rounds, {wrong} rounds with rows lost, repeated or changed")


if __name__ == "__main__":
    main()
