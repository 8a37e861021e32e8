"""The field's human-judgement benchmarks: their files, their usual protocol, and where to get them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cliplet.data.book import CaptionBook, read_book
from cliplet.data.plugins import known_or_own, own_name, table
from cliplet.data.tables import leave_out
from cliplet.errors import InputError
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

Judgements = Ratings | Preferences
Reader = Callable[[list[Path], list[Path]], tuple[Judgements, list[Path]]]
"""From the judgement files found and the caption files to the judgements and the files that they came from."""


@dataclass(frozen=True)
class Benchmark:
    """A benchmark of human judgements: its row in the table."""

    name: str
    """As given on the command line."""
    title: str
    """As people call it."""
    reader: Reader
    """Reads its files."""
    source: str = ""
    """Where to get the files."""
    files: tuple[str, ...] = ()
    """Names of the judgement files, looked for in the data folder ("." is the folder itself)."""
    captions: tuple[str, ...] = ()
    """Names of the caption files that references come from."""
    protocol: HumanProtocol | None = None
    """The literature's choices; None: tau-c for ratings, accuracy for preferences."""
    variants: tuple[dict[str, Any], ...] = ({},)
    """Choices of the protocol that the literature reports beside each other (FOIL: 1 and 4 references)."""

    def protocol_for(self, judgements: Judgements) -> HumanProtocol:
        """The protocol, by the kind of judgements where the benchmark has none."""
        return self.protocol or HumanProtocol("tau-c" if isinstance(judgements, Ratings) else "accuracy")


# ---------------------------------------------------------------- readers
def _with_captions(read: Callable[[Path, CaptionBook], Judgements]) -> Reader:
    """One judgement file, joined with captions where there are any."""
    return lambda files, captions: (_joined(read, files[0], captions), [*files[:1], *captions])


def _joined(read: Callable[[Any, CaptionBook], Judgements], source: Any, captions: list[Path]) -> Judgements:
    book = read_book(captions)
    judgements = read(source, book)
    leave_out(judgements.notes, book.failures)
    return judgements


def _or_clipscore_json(reader: Reader) -> Reader:
    """The JSON of CLIPScore's code where that is what was found."""

    def read(files: list[Path], captions: list[Path]) -> tuple[Judgements, list[Path]]:
        if files[0].suffix == ".json":
            return read_clipscore_json(files[0]), files[:1]
        return reader(files, captions)

    return read


def _flickr8k(read: Callable[[Path, CaptionBook], Judgements]) -> Reader:
    def reader(files: list[Path], captions: list[Path]) -> tuple[Judgements, list[Path]]:
        if not captions:
            raise InputError(
                f"{files[0]}: candidates are given by number; name Flickr8k.token.txt with --references"
            )
        return _with_captions(read)(files, captions)

    return _or_clipscore_json(reader)


def _composite(files: list[Path], captions: list[Path]) -> tuple[Judgements, list[Path]]:
    tables = [f for f in files if f.suffix == ".csv"]
    return _joined(read_composite, tables, captions), tables + captions


def _pascal50s(files: list[Path], captions: list[Path]) -> tuple[Judgements, list[Path]]:
    folder = files[0].parent
    return read_pascal50s(folder), [folder / "pair_pascal.mat", folder / "consensus_pascal.mat"]


def _thumb(files: list[Path], captions: list[Path]) -> tuple[Judgements, list[Path]]:
    return read_thumb(files[0], captions[0] if captions else None), files[:1] + captions[:1]


# ---------------------------------------------------------------- the table
_FLICKR8K = (
    "Flickr8k text archive (Hodosh et al. 2013): ExpertAnnotations.txt, CrowdFlowerAnnotations.txt and "
    "Flickr8k.token.txt; photos in Flickr8k_Dataset"
)

BENCHMARKS: dict[str, Benchmark] = table(
    (
        Benchmark(
            "flickr8k-expert", "Flickr8k-Expert", _flickr8k(read_flickr8k_expert), _FLICKR8K,
            ("ExpertAnnotations.txt", "flickr8k.json"), ("Flickr8k.token.txt",),
            HumanProtocol(statistic="tau-c", drop_own=True),
        ),
        Benchmark(
            "flickr8k-cf", "Flickr8k-CF", _flickr8k(read_flickr8k_cf), _FLICKR8K,
            ("CrowdFlowerAnnotations.txt", "crowdflower_flickr8k.json"), ("Flickr8k.token.txt",),
            HumanProtocol(statistic="tau-b"),
        ),
        Benchmark(
            "composite", "Composite", _or_clipscore_json(_composite),
            "Composite (Aditya et al. 2015, arXiv 1511.03292): the AMT_eval archive; captions of "
            "Flickr8k, Flickr30k and COCO val2014",
            ("8k_correctness.csv", "30k_correctness.csv", "coco_correctness.csv", "composite.json"),
            ("Flickr8k.token.txt", "results_20130124.token", "captions_val2014.json"),
        ),
        Benchmark(
            "pascal50s", "Pascal-50S", _pascal50s,
            "Pascal-50S (Vedantam et al. 2015): pyCIDErConsensus archive of the CIDEr page; "
            "photos of UIUC Pascal / VOC",
            ("pair_pascal.mat",), (),
            HumanProtocol(statistic="accuracy", drawn_references=5, reference_draws=5, ties="half"),
        ),
        Benchmark(
            "foil", "FOIL-COCO", _with_captions(read_foil),
            "FOIL-COCO (Shekhar et al. 2017): foilv1.0_test_2017.json; COCO val2014 photos and captions",
            ("foilv1.0_test_2017.json",), ("captions_val2014.json",),
            HumanProtocol(statistic="accuracy", references=4, ties="loss"),
            ({"references": 1}, {"references": 4}),
        ),
        Benchmark(
            "thumb", "THumB 1.0", _thumb,
            "THumB 1.0 (Kasai et al. 2021, arXiv 2111.08940): folder mscoco of its repository; COCO val2014 photos",
            ("mscoco_THumB-1.0.jsonl",), ("mscoco_references.json", "mscoco_references.jsonl"),
            HumanProtocol(statistic="pearson"),
        ),
        Benchmark(
            "polaris", "Polaris", _with_captions(read_rated_table),
            "Polaris (Wada et al. 2024, arXiv 2402.18091): data set yuwd/Polaris as Parquet, "
            "or polaris_test.csv with its photos",
            ("polaris_test.csv", "polaris.csv", "polaris.parquet"),
        ),
        Benchmark(
            "nebula", "Nebula", _with_captions(read_rated_table),
            "Nebula (Matsuda et al. 2024, arXiv 2409.19255): as Parquet, or nebula_test.csv with its photos",
            ("nebula_test.csv", "nebula.csv", "nebula.parquet"),
        ),
        Benchmark(
            "table", "your table", _with_captions(read_rated_table),
            "a CSV, TSV, JSONL or Parquet of image, caption, rating",
        ),
    ),
    "benchmark",
)  # fmt: skip
"""Name to benchmark; to add one takes its reader and a row."""


def find_benchmark(name: str) -> Benchmark:
    """A benchmark of the table by name, or a user's own as ``module:attribute``.

    That is a :class:`Benchmark`, or a function from the path of ``--data`` and the list of caption files to
    :class:`Ratings` or :class:`Preferences`; its results are called like the function.

    Raises:
        InputError: an unknown name, or an attribute that is neither.
    """
    found: Any = known_or_own(name, BENCHMARKS, "benchmark")
    if isinstance(found, Benchmark):
        return found
    if not callable(found):
        raise InputError(
            f"benchmark {name!r} is of type {type(found).__name__}: it must be a Benchmark or a reader"
        )

    def reader(files: list[Path], captions: list[Path]) -> tuple[Judgements, list[Path]]:
        judgements = found(files[0], captions)
        if not isinstance(judgements, (Ratings, Preferences)):
            raise InputError(
                f"benchmark {name!r} gave a {type(judgements).__name__}: it must read Ratings or Preferences "
                "(cliplet.evaluation.judgements)"
            )
        return judgements, [*files[:1], *captions]

    return Benchmark(own_name(name), name, reader, files=(".",))


def _judgement_files(benchmark: Benchmark, data: Path) -> list[Path]:
    """The judgement files in a folder, or the file itself."""
    if data.is_file():
        return [data]
    if not data.is_dir():
        raise InputError(f"{data}: there is no such file or folder")
    found = [data / n for n in benchmark.files if (data / n).exists()]
    if not found:
        wanted = " or ".join(benchmark.files) or "(name the file itself)"
        raise InputError(
            f"{data}: no judgements of {benchmark.title} there; looked for {wanted}. Get it from: {benchmark.source}"
        )
    return found


def load_judgements(
    benchmark: str | Benchmark, data: Path, references: Sequence[Path] = ()
) -> tuple[Judgements, list[Path]]:
    """Read a benchmark from its file or from a folder that holds its files under their usual names.

    Returns the judgements and the files they came from.
    """
    if isinstance(benchmark, str):
        benchmark = find_benchmark(benchmark)
    files = _judgement_files(benchmark, data)
    folder = data if data.is_dir() else data.parent
    captions = list(references) or [folder / n for n in benchmark.captions if (folder / n).is_file()]
    return benchmark.reader(files, captions)
