"""``cliplet evaluate``: how well a metric agrees with people, and how well a model retrieves and classifies."""

import dataclasses
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cliplet.cli import options
from cliplet.cli.console import progress_bar

if TYPE_CHECKING:
    from cliplet.encoders.base import Encoder
    from cliplet.evaluation.results import Check, Evaluation


def _benchmark_names() -> Iterable[str]:
    from cliplet.evaluation.benchmarks import BENCHMARKS

    return BENCHMARKS


def _common(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that every evaluation has."""
    for option in (
        options.cache_dir,
        options.cache,
        click.option("--seed", default=0, show_default=True, help="Random seed of the resamples and all other draws."),
        options.resamples(1000, least=0),
        click.option("--strict", is_flag=True, help="Exit with status 1 when any input could not be used."),
        click.option("--tolerance", default=0.1, show_default=True, help="Largest difference to a value of --expect."),
        click.option("--expect", metavar="FILE",
                     help="File of expected values, an earlier --json output; status 1 if they are not met."),
        options.as_json,
        options.out("results.json, results.md and report.html"),
        options.computing,
        options.model,
        click.option("--images", multiple=True, metavar="DIR|TAR", help="Folder or tar of photos; may be repeated."),
    ):  # fmt: skip
        command = option(command)
    return command


@click.group()
def evaluate() -> None:
    """Measure a metric or a model on the field's benchmarks."""


class _HumanCommand(click.Command):
    """Lists the benchmarks in its help."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The benchmarks, then the options."""
        from cliplet.evaluation.benchmarks import BENCHMARKS

        rows = [(name, benchmark.title) for name, benchmark in BENCHMARKS.items()]
        with formatter.section("Benchmarks"):
            formatter.write_dl(
                [*rows, ("MODULE:ATTRIBUTE", "your own Benchmark, or a function that reads one")]
            )
        super().format_options(ctx, formatter)


@evaluate.command(cls=_HumanCommand)
@click.argument("benchmarks", nargs=-1, required=True, metavar="BENCHMARK...",
                type=options.Names(_benchmark_names, own=True))  # fmt: skip
@click.option("--data", required=True, metavar="DIR|FILE",
              help="File of judgements, or the folder with a benchmark's files under their usual names.")  # fmt: skip
@click.option("--references", multiple=True, metavar="FILE",
              help="File of reference captions, may be repeated; default: those beside the data.")  # fmt: skip
@options.metrics
@options.tokenizer
@click.option("--scores", multiple=True, metavar="FILE[:COLUMN,...]",
              help="Table of scores from elsewhere: image, caption, columns of numbers; may be repeated.")  # fmt: skip
@options.preset
@click.option("--set", "changes", multiple=True, metavar="NAME=VALUE",
              help="Change a choice of the protocol, such as statistic=spearman, hide=judged, raters=mean, "
                   "references=1 or ties=loss; --set help lists them all.")  # fmt: skip
@click.option(
    "--against", metavar="METRIC", help="Metric that every other is compared with; default: the best."
)
@_common
def human(benchmarks: tuple[str, ...], data: str, references: tuple[str, ...], metrics: str | None, tokenizer: str,
          scores: tuple[str, ...], preset: str, changes: tuple[str, ...], against: str | None,
          **common: Any) -> None:  # fmt: skip
    """How well do scores agree with people?

    \b
    cliplet evaluate human flickr8k-expert flickr8k-cf --data flickr8k/
    cliplet evaluate human table --data ratings.csv --scores mine.csv

    --model none leaves the model out.
    """
    from cliplet.evaluation.runs import ScoreSources, evaluate_human

    _check_files(common)
    chosen = _protocol_changes(changes)
    chosen |= {name: common[name] for name in ("resamples", "seed")}
    with progress_bar("scoring") as progress:
        sources = ScoreSources(
            None if common["model"] == "none" else _encoder(common),
            options.metric_names(metrics),
            [_score_file(s) for s in scores],
            preset,
            progress,
            tokenizer,
        )
        run = evaluate_human(
            benchmarks, Path(data), sources, common["images"], [Path(r) for r in references], chosen, against
        )
    _finish(run, common)


@evaluate.command()
@click.argument("captions", nargs=-1)
@click.option(
    "--split", metavar="NAME|FILE", help="Split of a Karpathy JSON, or a file of image names, one a line."
)
@click.option(
    "--embeddings",
    metavar="DIR|NPZ",
    help="Saved embeddings (images, texts, caption_image) in the place of captions and a model.",
)
@click.option("--save-embeddings", metavar="DIR", help="Folder to save the embeddings in, as .npy.")
@click.option(
    "--folds",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Number of parts to average over (COCO's 5 x 1k: 5).",
)
@click.option("--ties", type=click.Choice(["pessimistic", "optimistic"]), default="pessimistic", show_default=True,
              help="Place of a wrong item with an equal score: before the right one, or after it.")  # fmt: skip
@click.option("--equal-captions", is_flag=True,
              help="A caption fits every photo that has it, word by word: for sets whose captions repeat.")  # fmt: skip
@click.option("--prefix", default="", help="Text to put before every caption; default: none.")
@click.option("--name", help="Name of the set in results; default: from the file's name.")
@_common
def retrieval(captions: tuple[str, ...], split: str | None, embeddings: str | None, save_embeddings: str | None,
              folds: int, ties: Any, equal_captions: bool, prefix: str, name: str | None,
              **common: Any) -> None:  # fmt: skip
    """Does the right caption, or the right photo, come first?

    \b
    cliplet evaluate retrieval captions.json --images photos/
    cliplet evaluate retrieval dataset_coco.json --split test --folds 5
    cliplet evaluate retrieval --embeddings saved/

    Captions come as Karpathy JSON, Flickr8k token file, COCO JSON, CSV, JSONL, Parquet or WebDataset tars.
    """
    from cliplet.evaluation.model_runs import (
        embed_captioned_photos,
        load_embedding_folder,
        model_facts,
        run_retrieval,
    )
    from cliplet.evaluation.model_runs import (
        save_embeddings as save,
    )
    from cliplet.evaluation.retrieval import RetrievalProtocol, equal_caption_pairs

    if bool(captions) == bool(embeddings):
        raise click.UsageError("give either caption files or --embeddings")
    _check_files(common)
    if equal_captions and embeddings:
        raise click.UsageError(
            "--equal-captions needs the captions; saved embeddings may have a table of pairs"
        )
    protocol = RetrievalProtocol(ties=ties, folds=folds, resamples=common["resamples"], seed=common["seed"])
    if embeddings:
        data = load_embedding_folder(Path(embeddings))
        facts: dict[str, Any] = {"embeddings": embeddings}
    else:
        encoder = _encoder(common)
        with progress_bar("embedding") as progress:
            files = [Path(c) for c in captions]
            data = embed_captioned_photos(encoder, files, common["images"], split, prefix, progress)
        facts = {**model_facts(encoder, prefix), "files": list(captions), "split": split}
    right = None
    if equal_captions:
        right = equal_caption_pairs(data.captions, data.caption_image)
        facts["equal captions"] = "right"
    if save_embeddings:
        save(Path(save_embeddings), data)
    name = name or _set_name(split, embeddings or captions[0])
    _finish(run_retrieval(name, data, protocol, facts, right), common)


@evaluate.command()
@click.argument("source")
@click.option(
    "--classes",
    metavar="FILE",
    help="File of class names, one a line or a JSON list; default: from folders or file names.",
)
@click.option(
    "--templates",
    metavar="FILE",
    help="File of prompt templates, one a line, with {} for the class; default: a photo of a {}.",
)
@click.option("--labels", type=click.Choice(["auto", "folder", "name"]), default="auto", show_default=True,
              help="Source of the classes when SOURCE is a folder or tar: folder names or file names.")  # fmt: skip
@click.option("--texts", metavar="FILE|MODULE:ATTRIBUTE",
              help="More texts of the classes and their rule, as cliplet classify takes them.")  # fmt: skip
@click.option("--unlabelled", metavar="DIR|TAR", help="Photos by which the texts are standardised.")
@click.option("--against", metavar="NAME|DIR", help="Another model: prints the share kept of its accuracy.")
@click.option("--name", help="Name of the set in results; default: SOURCE's name.")
@_common
def zeroshot(source: str, classes: str | None, templates: str | None, labels: Any, texts: str | None,
             unlabelled: str | None, against: str | None, name: str | None, **common: Any) -> None:  # fmt: skip
    """How often does a class name in a sentence find the photo's class?

    \b
    cliplet evaluate zeroshot imagenet/val --classes names.txt
    cliplet evaluate zeroshot images.tar --labels name --against other/model

    SOURCE is a folder or tar of photos (a folder a class, or the class in the file name), or a table with image
    and label columns.
    """
    from cliplet.classification.ensemble import DEFAULT_TEMPLATES, read_templates
    from cliplet.classification.labelled import read_class_names, read_labelled_photos
    from cliplet.evaluation.model_runs import run_zeroshot

    _check_files(common)
    names = read_class_names(Path(classes)) if classes else None
    prompts = read_templates(Path(templates)) if templates else DEFAULT_TEMPLATES
    data = read_labelled_photos(Path(source), [Path(i) for i in common["images"]], names, labels)
    encoder = _encoder(common)
    other = _encoder({**common, "model": against}) if against else None
    with progress_bar("embedding") as progress:
        run = run_zeroshot(
            name or Path(source).stem,
            encoder,
            data,
            prompts,
            other,
            common["resamples"],
            common["seed"],
            progress,
            texts,
            unlabelled,
        )
    _finish(run, common)


@evaluate.command()
@click.argument("train")
@click.option(
    "--test", metavar="DIR|TAR|TABLE", help="Labelled photos to report on; default: every second of TRAIN."
)
@click.option("--labels", type=click.Choice(["auto", "folder", "name"]), default="auto", show_default=True,
              help="Source of the classes when photos are a folder or tar: folder names or file names.")  # fmt: skip
@click.option(
    "--shots", default="1,2,4,8,16", show_default=True, metavar="LIST", help="Labelled photos a class."
)
@click.option("--repeats", "draws", type=click.IntRange(1), default=10, show_default=True,
              help="Number of draws of labelled photos.")  # fmt: skip
@click.option("--adapters", metavar="LIST", help="Adapters, parted by commas; default: all.")
@click.option("--texts", metavar="FILE|MODULE:ATTRIBUTE",
              help="Texts of the classes that adapters may use, as cliplet classify takes them.")  # fmt: skip
@click.option("--unlabelled", is_flag=True, help="Let adapters use all photos of TRAIN without their labels.")
@click.option("--name", help="Name of the set in results; default: TRAIN's name.")
@_common
def fewshot(train: str, test: str | None, labels: Any, shots: str, draws: int, adapters: str | None,
            texts: str | None, unlabelled: bool, name: str | None, **common: Any) -> None:  # fmt: skip
    """How well are classes learned from a few labelled photos?

    \b
    cliplet evaluate fewshot train/ --test test/ --unlabelled
    cliplet evaluate fewshot photos.tar --labels name --adapters probe,tip

    TRAIN is a folder or tar of photos (a folder a class, or the class in the file name), or a table with image and
    label columns. Settings are chosen inside TRAIN.
    """
    from cliplet.classification.labelled import read_labelled_photos
    from cliplet.evaluation.model_runs import run_fewshot

    _check_files(common)
    images = [Path(i) for i in common["images"]]
    sets = [read_labelled_photos(Path(s), images, None, labels) for s in (train, test) if s is not None]
    if not all(part.strip().isdecimal() and int(part) > 0 for part in shots.split(",")):
        raise click.UsageError(f"--shots {shots}: give numbers from 1 up, parted by commas")
    with progress_bar("embedding") as progress:
        run = run_fewshot(
            name or Path(train).stem,
            _encoder(common),
            sets,
            [int(part) for part in shots.split(",")],
            draws,
            options.metric_names(adapters),
            texts,
            unlabelled,
            common["resamples"],
            common["seed"],
            progress,
        )
    _finish(run, common)


@evaluate.command()
@click.argument("files", nargs=-1, required=True)
@click.option(
    "--from-captions",
    is_flag=True,
    help="Take FILES for captions and make false ones from them (object, colour, number, action).",
)
@click.option(
    "--near-nouns",
    type=click.Choice(["captions", "names", "detector"]),
    help="Ask for a photo's thing among its ten nearest nouns; FILES are captions, or folders and tars of photos "
    "(named after their class, or for a detector).",
)
@click.option(
    "--detector", metavar="SOURCE", help="Detector for --near-nouns detector, as cliplet regions takes it."
)
@click.option(
    "--split",
    metavar="NAME|FILE",
    help="Split of captions: a Karpathy one, or a file of image names; of photos: the file.",
)
@click.option(
    "--ties",
    type=click.Choice(["loss", "half", "drop"]),
    default="loss",
    show_default=True,
    help="What an equal score counts: a loss, half a win, or nothing.",
)
@click.option("--prefix", default="", help="Text to put before every caption; default: none.")
@click.option(
    "--words",
    type=click.Choice(["all", "train", "test"]),
    default="all",
    show_default=True,
    help="Word pairs that --from-captions swaps; test has none that training on words = train has seen.",
)
@click.option("--words-seed", default=0, show_default=True, help="Seed of the split of --words.")
@click.option(
    "--fluent", is_flag=True, help="Let --from-captions make false captions that sound like the true ones."
)
@click.option(
    "--balanced",
    is_flag=True,
    help="Let --from-captions leave out so many that no guesser can tell them unseen.",
)
@click.option(
    "--two-true",
    is_flag=True,
    help="Let --from-captions also ask whether another caption of the photo scores above the false one "
    "(SugarCrepe++; tables say it by a column caption2).",
)
@click.option("--name", help="Name of the set in results; default: the first file's name.")
@_common
def pairs(files: tuple[str, ...], from_captions: bool, near_nouns: Any, detector: str | None, split: str | None,
          ties: Any, prefix: str, words: Any, words_seed: int, fluent: bool, balanced: bool, two_true: bool,
          name: str | None, **common: Any) -> None:  # fmt: skip
    """Does the true caption score above a false one that differs in a word?

    \b
    cliplet evaluate pairs sugarcrepe/*.json --images val2017/
    cliplet evaluate pairs captions.json --from-captions --images photos/
    cliplet evaluate pairs captions.json --from-captions --balanced --two-true
    cliplet evaluate pairs captions.json --near-nouns captions --images photos/
    cliplet evaluate pairs imagenet.tar --near-nouns names

    FILES are SugarCrepe (++), VALSE, FOIL-it or Winoground files, or tables of image, caption and false caption.
    """
    from cliplet.evaluation.hard_negatives import Swaps
    from cliplet.evaluation.model_runs import run_pairs

    _check_files(common)
    swaps = Swaps(words, words_seed, fluent, balanced, two_true)
    if swaps != Swaps() and not from_captions:
        raise click.UsageError(
            "--words, --words-seed, --fluent, --balanced and --two-true go with --from-captions only"
        )
    if near_nouns or detector:
        if from_captions or (near_nouns == "detector") != bool(detector):
            raise click.UsageError(
                "--detector and --near-nouns detector go together, and not with --from-captions"
            )
        _finish(_near_nouns(files, near_nouns, detector, split, prefix, name, common), common)
        return
    encoder = _encoder(common)
    with progress_bar("embedding") as progress:
        run = run_pairs(
            name or _set_name(split, files[0]),
            encoder,
            [Path(f) for f in files],
            common["images"],
            from_captions,
            split,
            ties,
            prefix,
            common["resamples"],
            common["seed"],
            progress,
            swaps,
        )
    _finish(run, common)


def _near_nouns(files: tuple[str, ...], labels: Any, detector: str | None, split: str | None, prefix: str,
                name: str | None, common: dict[str, Any]) -> "Evaluation":  # fmt: skip
    from cliplet.data.photos import PhotoStore
    from cliplet.evaluation.model_runs import labelled_nouns, run_near_nouns

    paths = [Path(f) for f in files]
    store = (
        PhotoStore(common["images"], beside=paths[0].parent) if labels == "captions" else PhotoStore(paths)
    )
    encoder = _encoder(common)
    with progress_bar("detecting") as progress:
        asked, failures = labelled_nouns(labels, paths, store, split, detector, progress)
    with progress_bar("embedding") as progress:
        run = run_near_nouns(
            name or _set_name(split, files[0]), encoder, asked, store, labels, prefix, common["resamples"],
            common["seed"], progress,
        )  # fmt: skip
    run.failed += len(failures)
    run.provenance["failures"] += failures
    return run


# ---------------------------------------------------------------- shared
def _set_name(split: str | None, path: str) -> str:
    """What a set is called: after the file of its split, else after its own file."""
    return Path(split).stem if split and Path(split).is_file() else Path(path).stem


def _check_files(common: dict[str, Any]) -> None:
    """Complain about the output folder and the expected values before any work."""
    if common["out"]:
        from cliplet.files import writable_folder

        writable_folder(common["out"])
    if common["expect"]:
        from cliplet.evaluation.results import check_expected

        check_expected([], Path(common["expect"]))


def _encoder(common: dict[str, Any]) -> "Encoder":
    from cliplet.encoders.registry import load

    encoder: Encoder = load(common["model"], common["device"], common["precision"])
    if common["cache"] or common["cache_dir"]:
        from cliplet.encoders.cache import CachedEncoder, EmbeddingCache

        encoder = CachedEncoder(encoder, EmbeddingCache(common["cache_dir"]))
    return encoder


def _protocol_changes(changes: tuple[str, ...]) -> dict[str, Any]:
    """``NAME=VALUE`` strings as typed values of HumanProtocol's fields."""
    from cliplet.evaluation.human import HumanProtocol

    fields = {f.name: type(f.default) for f in dataclasses.fields(HumanProtocol)}
    if "help" in changes:
        raise click.UsageError(
            "choices of the protocol: " + ", ".join(f"{n} ({k.__name__})" for n, k in fields.items())
        )
    out: dict[str, Any] = {}
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals or name not in fields:
            raise click.UsageError(f"--set {change}: give NAME=VALUE, with one of {', '.join(fields)}")
        if fields[name] is bool:
            if value.lower() not in ("true", "false"):
                raise click.UsageError(f"--set {change}: true or false")
            out[name] = value.lower() == "true"
        elif fields[name] is int:
            if not value.lstrip("-").isdigit():
                raise click.UsageError(f"--set {change}: a whole number")
            out[name] = int(value)
        else:
            out[name] = value
    return out


def _score_file(text: str) -> tuple[Path, tuple[str, ...]]:
    """``FILE`` or ``FILE:COLUMN,COLUMN``."""
    if not Path(text).exists() and ":" in text:
        path, _, columns = text.rpartition(":")
        return Path(path), tuple(c.strip() for c in columns.split(",") if c.strip())
    return Path(text), ()


def _finish(run: "Evaluation", common: dict[str, Any]) -> None:
    """Print, write, check, and exit with 1 if something asked for does not hold."""
    from cliplet.evaluation.results import check_expected, plain

    checks = (
        check_expected(run.entries, Path(common["expect"]), common["tolerance"]) if common["expect"] else []
    )
    if common["out"]:
        from cliplet.reports.evaluation import write_evaluation

        write_evaluation(run, Path(common["out"]), checks)
    if common["as_json"]:
        content = run.as_json()
        if checks:
            content["expected"] = plain([{**dataclasses.asdict(c), "passed": c.passed} for c in checks])
        click.echo(json.dumps(content, ensure_ascii=True, indent=2, allow_nan=False))
    else:
        _print_table(run, checks)
        if common["out"]:
            click.echo(f"written: {Path(common['out']) / 'report.html'}, results.md, results.json")
    if any(not c.passed for c in checks) or (common["strict"] and run.failed):
        sys.exit(1)


def _print_table(run: "Evaluation", checks: "list[Check]") -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from cliplet.reports.evaluation import check_line, elsewhere, table_rows

    header, rows = table_rows(run.entries, run)
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    grid = Table(title=escape(run.title), box=None, pad_edge=False, header_style="bold")
    for name in header:
        grid.add_column(
            name, justify="right" if name in ("value", "n", "published") else "left", no_wrap=name == "value"
        )
    for row in rows:
        grid.add_row(*(escape(cell) for cell in row))
    console.print(grid)
    lines = [f"published elsewhere: {line}" for line in elsewhere(run.entries)] + [
        f"note: {n}" for n in run.notes
    ]
    for line in lines + _protocol_lines(run) + [check_line(c) for c in checks]:
        console.print(escape(line), soft_wrap=True)


def _protocol_lines(run: "Evaluation") -> list[str]:
    """The choices made, in one line a benchmark."""
    lines = []
    for name, about in run.provenance.get("benchmarks", {}).items():
        choices = ", ".join(f"{k}={v}" for k, v in about["protocol"].items())
        lines.append(
            f"{name}: {about['rows_scored']} of {about['rows_read']} rows, {about['images']} images; {choices}"
        )
    if "model" in run.provenance:
        lines.append(f"model {run.provenance['model']} ({run.provenance['fingerprint']})")
    for about in run.provenance.get("benchmarks", {}).values():
        if "model" in about:
            lines.append(f"model {about['model']['model']} ({about['model']['fingerprint']})")
            break
    return lines
