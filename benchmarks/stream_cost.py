"""What a pair costs in a stream: processor time of reading, decoding and scoring, and from it hours for many millions.

    python -m benchmarks.stream_cost --data DIR

300 real pairs in shards, photos at 224 pixels as they come and enlarged to 512 (JPEG quality 95), one thread, in this
process. The first part warms up and does not count. The hours are paper: processor time a pair times pairs, through the
cores, at the share of a core that each worker kept in benchmarks/stream_workers.py (--kept).
"""

import argparse
import io
import os
import tarfile
import tempfile
import time
from pathlib import Path

from benchmarks.stream_workers import shards
from PIL import Image

from cliplet.stream.engines import set_threads
from cliplet.stream.plan import make_plan
from cliplet.stream.scores import ScoreWork
from cliplet.stream.sources import find_sources
from cliplet.stream.summary import Summary

PARTS, SIZE = 3, 100


def enlarged(source: Path, target: Path, side: int) -> int:
    """Write a shard again with larger photos; bytes a pair."""
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for member in old:
            held = old.extractfile(member)
            assert held is not None
            content = held.read()
            if member.name.endswith(".jpg"):
                stream = io.BytesIO()
                photo = Image.open(io.BytesIO(content)).resize((side, side), Image.Resampling.BICUBIC)
                photo.save(stream, "JPEG", quality=95)
                content = stream.getvalue()
            member.size = len(content)
            new.addfile(member, io.BytesIO(content))
    return target.stat().st_size // SIZE


def cost(folder: Path, work: ScoreWork) -> float:
    """Milliseconds of processor a pair, after the first part."""
    plan, compute = make_plan(find_sources([str(folder)]), {}, 10_000), work.begin()
    rows, start = 0, 0.0
    for part in plan:
        found = sum(table.num_rows for table in compute(part, lambda _: None))
        if part.number:
            rows += found
        else:
            start = time.process_time()
    return 1000 * (time.process_time() - start) / rows


def summary_rate(folder: Path, work: ScoreWork) -> float:
    """Rows a second and core of the pass over the parts that makes the summary, each row of an image of its own."""
    import pyarrow
    from pyarrow import parquet

    part = next(iter(make_plan(find_sources([str(folder)]), {}, 10_000)))
    table = pyarrow.concat_tables([*work.begin()(part, lambda _: None)] * 1000)
    names = pyarrow.array([f"photos/{i:09d}.jpg" for i in range(table.num_rows)])
    file = folder.parent / "part.parquet"
    parquet.write_table(table.set_column(0, "image", names), file)
    start = time.process_time()
    Summary().add(0, file)
    return table.num_rows / (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("CLIPLET_TEST_DATA"))
    parser.add_argument(
        "--kept", type=float, default=0.85, help="share of a core that a worker keeps beside others"
    )
    given = parser.parse_args()
    set_threads(1)
    work = ScoreWork(threads=1)
    with tempfile.TemporaryDirectory() as scratch:
        small, large = Path(scratch) / "224", Path(scratch) / "512"
        shards(given.data, small, PARTS * SIZE, SIZE)
        large.mkdir()
        size = [enlarged(path, large / path.name, 512) for path in sorted(small.glob("*.tar"))][-1]
        for name, folder, about in (("224 pixels", small, sorted(small.glob("*.tar"))[-1].stat().st_size // SIZE),
                                    ("512 pixels", large, size)):  # fmt: skip
            spent = cost(folder, work)
            print(f"photos of {name}, {about / 1000:.0f} kB a pair: {spent:.1f} ms of a core a pair, "
                  f"{1000 / spent:.0f} pairs a second and core")  # fmt: skip
        passed = summary_rate(small, work)
    print(f"the pass over the parts for the summary: {passed:,.0f} rows a second")
    print(f"on paper, photos of 512 pixels, {given.kept:.2f} of a core kept:")
    for millions in (1, 100, 5_000):
        hours = millions * 1e6 * spent / 1000 / 3600 / given.kept
        traffic = millions * 1e6 * size / 1e12
        clusters = ", ".join(
            f"{cores} cores {hours / cores:,.1f} h at {size * cores * 1000 * given.kept / spent / 1e6:,.0f} MB/s"
            for cores in (16, 256, 4096)
        )
        last = f"{traffic:,.2f} TB read; the summary's pass {millions * 1e6 / passed / 3600:,.2f} h"
        print(f"{millions:>6,} million pairs: {hours:,.0f} core hours; {clusters}; {last}")


if __name__ == "__main__":
    main()
