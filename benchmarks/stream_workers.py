"""Two single-thread workers against one, on Ray or as processes of this machine: pairs a second after the first part.

    python -m benchmarks.stream_workers --data DIR --engine ray

Real photos with a caption each, in shards of 50 pairs. The clock runs from the first part's file to the last one's, so
that loading the model and starting Ray do not count. The two are run in turns; printed is each turn's ratio and their
median, with the share of the machine's cores that was busy in each run (a run that other work disturbs shows in it).
"""

import argparse
import io
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path


def shards(data: Path, folder: Path, pairs: int, size: int) -> None:
    """Write shards of photos with one caption each."""
    texts: dict[str, str] = {}
    for line in (data / "flickr8k" / "Flickr8k.token.txt").read_text(encoding="utf-8").splitlines():
        name, _, text = line.partition("\t")
        texts.setdefault(name.partition("#")[0], text)
    folder.mkdir()
    with tarfile.open(data / "flickr8k" / "images_train.tar") as source:
        out, written = None, 0
        for member in source:
            name = Path(member.name).name
            if not member.isfile() or name not in texts or written >= pairs:
                continue
            if written % size == 0:
                if out is not None:
                    out.close()
                out = tarfile.open(folder / f"{written // size:05d}.tar", "w")  # noqa: SIM115
            photo = source.extractfile(member)
            assert photo is not None
            assert out is not None
            for suffix, content in (("jpg", photo.read()), ("txt", texts[name].encode())):
                info = tarfile.TarInfo(f"{written:06d}.{suffix}")
                info.size = len(content)
                out.addfile(info, io.BytesIO(content))
            written += 1
        if out is not None:
            out.close()


def busy() -> tuple[float, float]:
    """Processor time of the machine so far: busy, and all."""
    ticks = list(map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9]))
    return float(sum(ticks) - ticks[3] - ticks[4]), float(sum(ticks))


def rate(shards_folder: Path, out: Path, engine: str, workers: int, size: int) -> float:
    """Pairs a second after the first part."""
    command = [sys.executable, "-m", "cliplet", "score", str(shards_folder), "--out", str(out), "--engine", engine,
               "--workers", str(workers), "--threads", "1"]  # fmt: skip
    env = {**os.environ, "RAY_ADDRESS": "local", "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
    times = sorted(path.stat().st_mtime for path in (out / "parts").glob("part-*.parquet"))
    return size * (len(times) - 1) / (times[-1] - times[0])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("CLIPLET_TEST_DATA"))
    parser.add_argument("--engine", default="ray")
    parser.add_argument("--pairs", type=int, default=1600)
    parser.add_argument("--size", type=int, default=50)
    parser.add_argument("--turns", type=int, default=4)
    given = parser.parse_args()
    ratios = []
    with tempfile.TemporaryDirectory() as scratch:
        shards(given.data, Path(scratch) / "shards", given.pairs, given.size)
        for turn in range(given.turns):
            found = {}
            for workers in (1, 2) if turn % 2 == 0 else (2, 1):
                out, before = Path(scratch) / "out", busy()
                found[workers] = rate(Path(scratch) / "shards", out, given.engine, workers, given.size)
                used, whole = (b - a for a, b in zip(before, busy(), strict=True))
                print(f"{given.engine}, {workers} single-thread workers: {found[workers]:.1f} pairs/s, "
                      f"{100 * used / whole:.0f} % of the cores busy in all", flush=True)  # fmt: skip
                shutil.rmtree(out)
            ratios.append(found[2] / found[1])
    turns = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    print(
        f"{given.engine}: two against one, after the first part: median {statistics.median(ratios):.2f} ({turns})"
    )


if __name__ == "__main__":
    main()
