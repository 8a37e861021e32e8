"""Memory and time of `cliplet score` as a stream, from 62,500 to 1,000,000 caption rows over 2,000 photos.

    python -m benchmarks.stream_memory --data DIR
    python -m benchmarks.stream_memory --data DIR --rows 1000000

Each size runs in a process of its own: `cliplet score rows.csv --images PHOTOS --out OUT`. The captions are real ones;
each photo is named in 250 rows on end and then again later, so 500,000 rows name all 2,000 photos once, a million
twice. Printed: seconds, rows a second, the largest sum of resident memory of the driver and its workers (looked at
every 0.1 s), and the exponents of time and of processor time by rows between neighbouring sizes.
"""

import argparse
import csv
import math
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

PHOTOS, ON_END, STEP = 2_000, 250, 17
SIZES = (62_500, 125_000, 250_000, 500_000, 1_000_000)


def photos(data: Path, folder: Path) -> list[str]:
    """Unpack 2,000 photos; their names."""
    names: list[str] = []
    folder.mkdir(parents=True, exist_ok=True)
    for tar in ("images_dev.tar", "images_train.tar"):
        with tarfile.open(data / "flickr8k" / tar) as opened:
            for member in opened:
                if member.isfile() and len(names) < PHOTOS:
                    names.append(Path(member.name).name)
                    content = opened.extractfile(member)
                    assert content is not None
                    (folder / names[-1]).write_bytes(content.read())
    return names


def captions_file(path: Path, rows: int, names: list[str], texts: list[str]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image", "caption"])
        for row in range(rows):
            visit, k = divmod(row, ON_END)
            writer.writerow([names[visit % len(names)], texts[(visit * STEP + k) % len(texts)]])


def tree_memory(pid: int) -> int:
    """Bytes resident of a process and its children's."""
    total, ahead = 0, [pid]
    while ahead:
        one = ahead.pop()
        try:
            status = Path(f"/proc/{one}/status").read_text()
            total += 1024 * int(status.split("VmRSS:")[1].split()[0])
            for task in Path(f"/proc/{one}/task").iterdir():
                ahead += map(int, (task / "children").read_text().split())
        except (OSError, IndexError, ValueError):
            continue
    return total


def measured(command: list[str]) -> tuple[float, float, int]:
    """Seconds, seconds of the processor and the largest memory of a command."""
    start, before, most = time.monotonic(), os.times(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        most = max(most, tree_memory(process.pid))
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    spent = os.times()
    used = spent.children_user + spent.children_system - before.children_user - before.children_system
    return time.monotonic() - start, used, most


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("CLIPLET_TEST_DATA"))
    parser.add_argument("--rows", type=int, nargs="+", default=SIZES)
    parser.add_argument("options", nargs="*", help="more options of cliplet score, behind --")
    given = parser.parse_args()
    lines = (given.data / "flickr8k" / "Flickr8k.token.txt").read_text(encoding="utf-8").splitlines()
    texts = [line.partition("\t")[2] for line in lines][:20_000]
    before: tuple[int, float, float] | None = None
    with tempfile.TemporaryDirectory() as scratch:
        names = photos(given.data, Path(scratch) / "photos")
        for rows in given.rows:
            file, out = Path(scratch) / f"{rows}.csv", Path(scratch) / f"out{rows}"
            captions_file(file, rows, names, texts)
            seconds, used, most = measured(
                [sys.executable, "-m", "cliplet", "score", str(file), "--images", str(Path(scratch) / "photos"),
                 "--out", str(out), "--parts", "parquet", *given.options]
            )  # fmt: skip
            exponents = ""
            if before is not None:
                wall, own = (math.log(a / b) / math.log(rows / before[0]) for a, b in
                             ((seconds, before[1]), (used, before[2])))  # fmt: skip
                exponents = f", exponents {wall:.3f} (time) and {own:.3f} (processor)"
            before = rows, seconds, used
            print(f"{rows:>9,} rows: {seconds:6.1f} s, {used:6.1f} s of the processor, {rows / seconds:6,.0f} rows/s, "
                  f"peak memory {most / 1e6:.0f} MB{exponents}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
