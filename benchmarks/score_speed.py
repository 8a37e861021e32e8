"""cliplet's speed and memory beside the peers' (CLIPScore on open_clip ViT-B/32, PyTorch), in the same run.

    python -m benchmarks.score_speed                        # everything: about a quarter of an hour on 2 cores
    python -m benchmarks.score_speed --cases cold --repeat 7
    python -m benchmarks.score_speed --cases flickr1 --limit 200 --peers fp32 bf16
    python -m benchmarks.score_speed --cases cold flickr1 --peers BUILD --model FOLDER --peer-model FOLDER

A peer is open_clip in fp32 or bf16, or the checkout of another build of cliplet, given as a folder.

Cases, each in fresh processes, cliplet and the peer in turns, medians of --repeat turns:

- cold: one photo and one caption, from the start of the process to the first printed score (imports, loading and all);
- flickr1: 1,000 Flickr8k dev photos with one caption each; flickr5: the same photos with five each;
- big: 40 JPEGs of 12 megapixels with one caption each.

"ratio" is the peer's time over cliplet's for the whole process; "ratio without start-up" takes each one's cold start
off first. Peak memory is the process's own maximum. Rows are appended to
``benchmarks/results/score_speed-CPU-CORES.csv``.
"""

import argparse
import csv
import json
import multiprocessing
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import _torchvision_shim

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("CLIPLET_TEST_DATA") or HERE.parents[1] / "shared" / "data")
PRECISIONS = ("fp32", "bf16")
CASES = ("cold", "flickr1", "flickr5", "big")
COMPILED = tempfile.TemporaryDirectory(prefix="score_speed_compiled")
"""Where Python keeps what it compiles, for this run alone."""


@dataclass(frozen=True)
class Run:
    """One process: what it took."""

    first_score: float
    """Seconds to the first line with a number on standard output."""
    seconds: float
    """Seconds to the end of the process."""
    peak_mb: float
    """Largest resident memory, in MB."""


@dataclass(frozen=True)
class Tool:
    """A command that scores a case."""

    name: str
    command: list[str]
    source: str | None = None
    """What Python finds first; None: as it is here."""

    @classmethod
    def cliplet(cls, model: str | None, checkout: str | None = None) -> "Tool":
        """This build, or that of a checkout."""
        command = [sys.executable, "-m", "cliplet", "score", *(["--model", model] if model else [])]
        if checkout is None:
            return cls("cliplet", command)
        commit = subprocess.check_output(["git", "-C", checkout, "rev-parse", "--short=7", "HEAD"], text=True)
        return cls(f"cliplet {commit.strip()}", command, str(Path(checkout, "src").resolve()))

    @classmethod
    def open_clip(cls, precision: str, batch: int) -> "Tool":
        """CLIPScore on ViT-B/32."""
        command = [sys.executable, str(HERE / "peer_clipscore.py"), "--batch", str(batch)]
        shim = ["--shim"] if _torchvision_shim.needed() else []
        return cls(f"open_clip {precision}", [*command, "--precision", precision, *shim])


@dataclass(frozen=True)
class Case:
    """What both tools score."""

    name: str
    pairs: int
    arguments: list[str]
    """A photo and a caption, or a captions file and its photos."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--repeat", type=int, default=3, help="turns of each tool; the cold start has 2n - 1")
    parser.add_argument("--limit", type=int, default=1000, help="Flickr8k photos to use")
    parser.add_argument("--big", type=int, default=40, help="photos of 12 megapixels to make")
    parser.add_argument("--batch", type=int, default=64, help="the peer's batch size")
    parser.add_argument(
        "--peers", nargs="+", default=["fp32"], metavar="fp32|bf16|FOLDER", help="what cliplet stands beside"
    )
    parser.add_argument("--peer-model", help="the model of another build; default: the one packaged there")
    parser.add_argument("--model", help="cliplet's model; default: the packaged one")
    parser.add_argument(
        "--flickr", type=Path, default=DATA / "flickr8k", help="folder with images_dev.tar and captions"
    )
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args()

    ours = Tool.cliplet(options.model)
    folder = Path(tempfile.mkdtemp(prefix="score_speed"))
    try:
        rows = []
        cases = make_cases(options, folder)
        for name in options.peers:
            peer = (
                Tool.open_clip(name, options.batch)
                if name in PRECISIONS
                else Tool.cliplet(options.peer_model, name)
            )
            start_up = {"cliplet": 0.0, "peer": 0.0}
            for case in cases:
                repeat = 2 * options.repeat - 1 if case.name == "cold" else options.repeat
                row = {"model": options.model or "packaged", "peer": peer.name}
                rows.append(row | compare(case, ours, peer, repeat, start_up))
                print(json.dumps(rows[-1]), flush=True)
        print("written:", append(rows, options.results))
    finally:
        shutil.rmtree(folder)


def make_cases(options: argparse.Namespace, folder: Path) -> list[Case]:
    """The photos and captions files of the chosen cases; the cold start comes first, for the others need it."""
    flickr = folder / "flickr"
    with tarfile.open(options.flickr / "images_dev.tar") as tar:
        tar.extractall(flickr, filter="data")
    captions: dict[str, list[str]] = {}
    for line in (options.flickr / "Flickr8k.token.txt").read_text(encoding="utf-8").splitlines():
        key, caption = line.split("\t", 1)
        captions.setdefault(key.partition("#")[0], []).append(caption)
    photos = [path for path in sorted(flickr.rglob("*.jpg")) if path.name in captions][: options.limit]
    cases = [Case("cold", 1, [str(photos[0]), captions[photos[0].name][0]])]
    for name, each in (("flickr1", 1), ("flickr5", 5)):
        pairs = [(path.name, caption) for path in photos for caption in captions[path.name][:each]]
        cases.append(_file_case(name, pairs, photos[0].parent, folder))
    if "big" in options.cases:
        big = folder / "big"
        # In a process of its own: a child's peak memory counts that of the process that started it.
        maker = multiprocessing.get_context("spawn").Process(target=make_big_photos, args=(big, options.big))
        maker.start()
        maker.join()
        texts = [captions[path.name][0] for path in photos[: options.big]]
        cases.append(_file_case("big", list(zip(sorted(os.listdir(big)), texts, strict=True)), big, folder))
    return [case for case in cases if case.name == "cold" or case.name in options.cases]


def _file_case(name: str, pairs: list[tuple[str, str]], images: Path, folder: Path) -> Case:
    lines = [json.dumps({"image": image, "caption": caption}) for image, caption in pairs]
    path = folder / f"{name}.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Case(name, len(pairs), [str(path), "--images", str(images)])


def make_big_photos(folder: Path, count: int) -> None:
    """JPEGs of 4000 x 3000 pixels with detail everywhere, from photos that scikit-image and scikit-learn ship."""
    from tests.photos import twelve_megapixels

    folder.mkdir()
    for i in range(count):
        twelve_megapixels(seed=i).save(folder / f"{i:03}.jpg", quality=90)


def compare(case: Case, ours: Tool, peer: Tool, repeat: int, start_up: dict[str, float]) -> dict[str, object]:
    """Run both tools in turns and put their medians side by side."""
    runs: dict[str, list[Run]] = {"cliplet": [], "peer": []}
    for _ in range(repeat + (case.name == "cold")):
        for name, tool in (("peer", peer), ("cliplet", ours)):
            runs[name].append(measure([*tool.command, *case.arguments], tool.source))
    if case.name == "cold":  # the first turn compiled what the others find compiled
        runs = {name: all_runs[1:] for name, all_runs in runs.items()}
    row: dict[str, object] = {"case": case.name, "pairs": case.pairs, "repeats": repeat}
    took, working = {}, {}
    for name, all_runs in runs.items():
        took[name] = statistics.median(r.first_score if case.name == "cold" else r.seconds for r in all_runs)
        working[name] = max(took[name] - start_up[name], 1e-9)
        row[f"{name}_s"] = round(took[name], 3)
        row[f"{name}_pairs_per_s"] = round(case.pairs / took[name], 2)
        row[f"{name}_peak_mb"] = round(statistics.median(r.peak_mb for r in all_runs))
    row["ratio"] = round(took["peer"] / took["cliplet"], 2)
    row["ratio_without_start_up"] = (
        round(working["peer"] / working["cliplet"], 2) if case.name != "cold" else ""
    )
    if case.name == "cold":
        start_up.update(took)
    return row


def measure(command: list[str], source: str | None = None) -> Run:
    """Run a command in a fresh process and time it from outside."""
    environment = (
        os.environ | {"PYTHONPYCACHEPREFIX": COMPILED.name} | ({"PYTHONPATH": source} if source else {})
    )
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package is compiled, so checkouts are too
    with tempfile.TemporaryFile("w+") as complaint:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=complaint, text=True, env=environment
        )
        first = None
        with process.stdout as shown:  # type: ignore[union-attr]
            for line in shown:
                if first is None and re.search(r"\d", line):
                    first = time.perf_counter() - start
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode or first is None:
            complaint.seek(0)
            sys.exit(f"{' '.join(command)} failed ({process.returncode}):\n{complaint.read()}")
    return Run(first, seconds, usage.ru_maxrss / 1024)


def append(rows: list[dict[str, object]], folder: Path) -> Path:
    """Append the rows to the results of this kind of machine."""
    cpu = _cpu()
    path = folder / f"score_speed-{re.sub(r'[^A-Za-z0-9]+', '_', cpu).strip('_')}-{os.cpu_count()}cores.csv"
    folder.mkdir(exist_ok=True)
    facts = {"date": datetime.now(UTC).date().isoformat(), "cpu": cpu, "cores": os.cpu_count(), **_versions()}
    rows = [{**facts, **row} for row in rows]
    if path.exists():
        with path.open(newline="", encoding="utf-8") as stream:
            rows = [*csv.DictReader(stream), *rows]
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
    return path


def _cpu() -> str:
    try:
        info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r"model name\s*:\s*(.+)", info)
    return found[1] if found else platform.machine()


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    names = {
        "cliplet": "cliplet",
        "onnxruntime": "onnxruntime",
        "torch": "torch",
        "open_clip": "open_clip_torch",
    }
    return {shown: version(name) for shown, name in names.items()}


if __name__ == "__main__":
    main()
