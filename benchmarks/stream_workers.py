"""Two single-thread workers against one, on Ray or as processes of this machine: pairs a second after the first part.

    python -m benchmarks.stream_workers --data DIR --engine ray

Real photos with a caption each, in shards of 100 pairs. The clock runs from the first part's file to the last one's, so
that loading the model and starting Ray do not count. The order is 1, 2, 2, 1, so that a machine that slows down does
not favour either.
"""

import argparse
import os
import shutil
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
    import io

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
    parser.add_argument("--pairs", type=int, default=2400)
    parser.add_argument("--size", type=int, default=100)
    given = parser.parse_args()
    found: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as scratch:
        shards(given.data, Path(scratch) / "shards", given.pairs, given.size)
        for workers in (1, 2, 2, 1):
            out = Path(scratch) / "out"
            found[workers].append(rate(Path(scratch) / "shards", out, given.engine, workers, given.size))
            print(
                f"{given.engine}, {workers} workers of one thread: {found[workers][-1]:.1f} pairs/s",
                flush=True,
            )
            shutil.rmtree(out)
    one, two = (sum(found[n]) / len(found[n]) for n in (1, 2))
    print(f"{given.engine}: two against one, after the first part: {two / one:.2f} times")


if __name__ == "__main__":
    main()
