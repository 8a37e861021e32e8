"""The field's human-judgement benchmarks: their files, their usual protocol, and where to get them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cliplet.errors import InputError
from cliplet.evaluation.captions import CaptionBook, read_captions
from cliplet.evaluation.human import HumanProtocol
from cliplet.evaluation.judgements import (
    Preferences,
    Ratings,
    read_clipscore_json,
    read_composite,
    read_flickr8k_cf,
    read_flickr8k_expert,
    read_foil,
    read_pascal50s,
    read_rated_table,
    read_thumb,
)


@dataclass(frozen=True)
class Benchmark:
    """A benchmark of human judgements."""

    name: str
    """As given on the command line."""
    title: str
    """As people call it."""
    protocol: HumanProtocol
    """The literature's choices."""
    files: tuple[str, ...]
    """Names of the judgement files, looked for in the data folder; the first group found is read."""
    captions: tuple[str, ...] = ()
    """Names of the caption files that references come from."""
    source: str = ""
    """Where to get the files."""
    variants: tuple[dict[str, Any], ...] = ({},)
    """Choices of the protocol that the literature reports beside each other (FOIL: 1 and 4 references)."""


_RATED = HumanProtocol(statistic="tau-c")
_FLICKR8K = (
    "Flickr8k text archive (Hodosh et al. 2013): ExpertAnnotations.txt, CrowdFlowerAnnotations.txt and "
    "Flickr8k.token.txt; photos in Flickr8k_Dataset"
)

BENCHMARKS: dict[str, Benchmark] = {
    b.name: b
    for b in (
        Benchmark(
            "flickr8k-expert",
            "Flickr8k-Expert",
            HumanProtocol(statistic="tau-c", drop_own=True),
            ("ExpertAnnotations.txt", "flickr8k.json"),
            ("Flickr8k.token.txt",),
            _FLICKR8K,
        ),
        Benchmark(
            "flickr8k-cf",
            "Flickr8k-CF",
            HumanProtocol(statistic="tau-b"),
            ("CrowdFlowerAnnotations.txt", "crowdflower_flickr8k.json"),
            ("Flickr8k.token.txt",),
            _FLICKR8K,
        ),
        Benchmark(
            "composite",
            "Composite",
            _RATED,
            ("8k_correctness.csv", "30k_correctness.csv", "coco_correctness.csv", "composite.json"),
            ("Flickr8k.token.txt", "results_20130124.token", "captions_val2014.json"),
            "Composite (Aditya et al. 2015, arXiv 1511.03292): the AMT_eval archive; captions of "
            "Flickr8k, Flickr30k and COCO val2014",
        ),
        Benchmark(
            "pascal50s",
            "Pascal-50S",
            HumanProtocol(statistic="accuracy", drawn_references=5, reference_draws=5, ties="half"),
            ("pair_pascal.mat",),
            (),
            "Pascal-50S (Vedantam et al. 2015): pyCIDErConsensus archive of the CIDEr page; "
            "photos of UIUC Pascal / VOC",
        ),
        Benchmark(
            "foil",
            "FOIL-COCO",
            HumanProtocol(statistic="accuracy", references=4, ties="loss"),
            ("foilv1.0_test_2017.json",),
            ("captions_val2014.json",),
            "FOIL-COCO (Shekhar et al. 2017): foilv1.0_test_2017.json; COCO val2014 photos and captions",
            ({"references": 1}, {"references": 4}),
        ),
        Benchmark(
            "thumb",
            "THumB 1.0",
            HumanProtocol(statistic="pearson"),
            ("mscoco_THumB-1.0.jsonl",),
            ("mscoco_references.json", "mscoco_references.jsonl"),
            "THumB 1.0 (Kasai et al. 2021, arXiv 2111.08940): folder mscoco of its repository; COCO val2014 photos",
        ),
        Benchmark(
            "polaris",
            "Polaris",
            _RATED,
            ("polaris_test.csv", "polaris.csv", "polaris.parquet"),
            (),
            "Polaris (Wada et al. 2024, arXiv 2402.18091): data set yuwd/Polaris as Parquet, "
            "or polaris_test.csv with its photos",
        ),
        Benchmark(
            "nebula",
            "Nebula",
            _RATED,
            ("nebula_test.csv", "nebula.csv", "nebula.parquet"),
            (),
            "Nebula (Matsuda et al. 2024, arXiv 2409.19255): as Parquet, or nebula_test.csv with its photos",
        ),
        Benchmark(
            "table", "your table", _RATED, (), (), "a CSV, TSV, JSONL or Parquet of image, caption, rating"
        ),
    )
}


def find_benchmark(name: str) -> Benchmark:
    """A benchmark by name."""
    if name not in BENCHMARKS:
        raise InputError(f"unknown benchmark {name!r}; use one of {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def _judgement_files(benchmark: Benchmark, data: Path) -> list[Path]:
    """The judgement files in a folder, or the file itself."""
    if data.is_file():
        return [data]
    if not data.is_dir():
        raise InputError(f"{data}: there is no such file or folder")
    found = [data / n for n in benchmark.files if (data / n).is_file()]
    if not found:
        wanted = " or ".join(benchmark.files) or "(name the file itself)"
        raise InputError(
            f"{data}: no judgements of {benchmark.title} there; looked for {wanted}. Get it from: {benchmark.source}"
        )
    return found


def _reference_files(benchmark: Benchmark, data: Path, references: Sequence[Path]) -> list[Path]:
    folder = data if data.is_dir() else data.parent
    return list(references) or [folder / n for n in benchmark.captions if (folder / n).is_file()]


def load_judgements(
    name: str, data: Path, references: Sequence[Path] = ()
) -> tuple[Ratings | Preferences, list[Path]]:
    """Read a benchmark from its file or from a folder that holds its files under their usual names.

    Returns the judgements and the files they came from.
    """
    benchmark = find_benchmark(name)
    files = _judgement_files(benchmark, data)
    captions = _reference_files(benchmark, data, references)
    if name == "pascal50s":
        folder = files[0].parent
        return read_pascal50s(folder), [folder / "pair_pascal.mat", folder / "consensus_pascal.mat"]
    if name == "thumb":
        return read_thumb(files[0], captions[0] if captions else None), files[:1] + captions[:1]
    book = read_captions(captions)
    if name == "foil":
        return read_foil(files[0], book), files[:1] + captions
    if files[0].suffix == ".json" and name in ("flickr8k-expert", "flickr8k-cf", "composite"):
        return read_clipscore_json(files[0]), files[:1]
    if name == "composite":
        tables = [f for f in files if f.suffix == ".csv"]
        return read_composite(tables, book), tables + captions
    if name.startswith("flickr8k"):
        if not captions:
            raise InputError(
                f"{files[0]}: candidates are given by number; name Flickr8k.token.txt with --references"
            )
        reader = read_flickr8k_expert if name == "flickr8k-expert" else read_flickr8k_cf
        return reader(files[0], book), files[:1] + captions
    return _rated_file(files[0], book), files[:1] + captions


def _rated_file(path: Path, captions: CaptionBook) -> Ratings:
    return read_rated_table(path, captions)
