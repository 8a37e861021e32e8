"""``cliplet classify``: which class photos show."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cliplet.cli import options
from cliplet.cli.console import one_line, progress_bar

if TYPE_CHECKING:
    from cliplet.classification.classifier import Classifier
    from cliplet.classification.result import Classified
    from cliplet.classification.texts import ClassTexts

SHOWN = 20
"""Photos whose classes are printed; the others are in the files."""
SHOWN_FAILURES = 10


def _adapters() -> list[str]:
    from cliplet.classification.fewshot import ADAPTERS

    return list(ADAPTERS)


@click.command()
@click.argument("photos")
@click.option("--labels", metavar="FILE|DIR",
              help="File of classes, one a line, synonyms behind commas or |; or a folder of --save.")  # fmt: skip
@click.option("--texts", metavar="FILE|MODULE:ATTRIBUTE",
              help="JSON file of more texts by class (synonyms, attributes, analogues, sentences, against), or your "
                   "own function of class names.")  # fmt: skip
@click.option(
    "--captions",
    metavar="FILE",
    help="File of captions, of any photos: those that name a class become its texts.",
)
@click.option(
    "--templates", metavar="FILE", help="File of prompt templates, one a line, with {} for the class's name."
)
@click.option("--unlabelled", metavar="DIR|TAR",
              help="Photos without labels, such as PHOTOS itself, by which texts are standardised.")  # fmt: skip
@click.option("--shots", metavar="DIR|TAR|TABLE",
              help="Labelled photos to learn from: a folder a class, the class in the file name, or a table of image "
                   "and label.")  # fmt: skip
@click.option("--adapter", type=options.Names(_adapters),
              help="Way to learn from --shots; default: soft-kmeans with --unlabelled, else probe.")  # fmt: skip
@click.option("--held-out", metavar="DIR|TAR|TABLE",
              help="Other labelled photos, to fit the confidence and the cuts to.")  # fmt: skip
@options.model
@options.computing
@click.option(
    "--top", type=click.IntRange(1), default=5, show_default=True, help="Number of best classes to keep."
)
@click.option("--several", is_flag=True, help="Say every class that a photo shows, not the best one alone.")
@click.option("--none-of-these", is_flag=True, help="Say so where a photo shows none of the classes.")
@options.out("rows.csv, rows.jsonl, summary.json and report.html")
@click.option("--save", metavar="DIR", help="Folder to save the classifier in; --labels takes it again.")
@click.option("--safe-csv", is_flag=True,
              help="Put an apostrophe before cells of rows.csv that a spreadsheet takes for formulas.")  # fmt: skip
@options.as_json
@click.option("--strict", is_flag=True, help="Exit with status 1 when a photo could not be used.")
@options.cache
@options.cache_dir
def classify(photos: str, labels: str | None, out: str | None, save: str | None, safe_csv: bool, as_json: bool,
             strict: bool, top: int, several: bool, none_of_these: bool, held_out: str | None,
             **making: Any) -> None:  # fmt: skip
    """Say which class PHOTOS show: a photo, folder, tar or pattern.

    \b
    cliplet classify photos/ --labels animals.txt --out classes/
    cliplet classify photos/ --labels animals.txt --texts said.json
    cliplet classify photos/ --shots labelled/ --save animals/
    cliplet classify new.jpg --labels animals/

    Class texts are encoded once and kept on disk. With --shots alone the classes are those of the labelled photos.
    """
    from cliplet.files import writable_folder

    if labels is None and making["shots"] is None:
        raise click.UsageError("give --labels, or --shots whose labels are the classes")
    if making["shots"] and held_out is None and (several or none_of_these):
        wanted = "--several" if several else "--none-of-these"
        raise click.UsageError(
            f"{wanted} with --shots needs --held-out: other labelled photos to fit its cut to"
        )
    folder = None if out is None else writable_folder(out)
    if save is not None:
        from cliplet.classification.folder import check_place

        check_place(save)
    with progress_bar("encoding") as progress:
        classifier = _classifier(labels, making, progress)
        if held_out is not None:
            names, labels_of, left_out = _labelled(held_out)
            classifier.calibrate(names, [one.split("|") for one in labels_of])
            classifier.notes += left_out
    if save is not None:
        classifier.save(save)
    with progress_bar("classifying") as progress:
        result = classifier.classify(
            photos, top, several=several, none_of_these=none_of_these, progress=progress
        )
    if folder is not None:
        from cliplet.reports.classify import write_classified

        write_classified(result, folder, safe_csv)
    if as_json:
        click.echo(json.dumps(result.as_json(), ensure_ascii=True))
    else:
        _show(result, folder, save)
    if strict and result.reasons:
        sys.exit(1)


def _classifier(labels: str | None, making: dict[str, Any], progress: Any) -> "Classifier":
    """The classifier that the options ask for: a saved one, or a new one."""
    from cliplet.classification.classifier import Classifier, model_source

    new = [
        name for name in ("texts", "captions", "templates", "unlabelled", "shots", "adapter") if making[name]
    ]
    if labels is not None and Path(labels).is_dir():
        if new:
            raise click.UsageError(
                f"--{new[0]} makes a new classifier: give --labels a file, not a saved one"
            )
        found = Classifier.load(
            labels, _encoder(making) if making["model"] else None, making["device"], making["precision"]
        )
        return found
    if making["adapter"] and not making["shots"]:
        raise click.UsageError("--adapter is for --shots")
    shots = None if making["shots"] is None else _labelled(making["shots"])
    classes, notes = _classes(labels, shots[1] if shots else [], making)
    found = Classifier(
        classes,
        _encoder(making),
        unlabelled=making["unlabelled"],
        cache=making["cache_dir"] or True,
        progress=progress,
        **_templates(making["templates"]),
    )
    found.model = model_source(making["model"] or found.encoder.card.name)
    found.notes += notes
    if shots is not None:
        found.learn(*shots[:2], adapter=making["adapter"])
        found.notes += shots[2]
    return found


def _classes(
    labels: str | None, shot_labels: list[str], making: dict[str, Any]
) -> "tuple[list[ClassTexts], list[str]]":
    """The classes with all their texts, and notes."""
    from cliplet.classification.mining import mine_sentences
    from cliplet.classification.texts import add_texts, make_classes, read_labels

    classes, notes = make_classes(list(dict.fromkeys(shot_labels))) if labels is None else read_labels(labels)
    if making["texts"]:
        classes = add_texts(classes, making["texts"], notes)
    if making["captions"]:
        from cliplet.data.book import read_book

        book = read_book([Path(making["captions"])])
        classes, mined = mine_sentences(classes, (c for own in book.images.values() for c in own))
        notes.append(f"captions name {mined} of {len(classes)} classes")
    return classes, notes


def _templates(path: str | None) -> dict[str, Any]:
    if path is None:
        return {}
    from cliplet.classification.ensemble import read_templates

    return {"templates": read_templates(Path(path))}


def _labelled(source: str) -> tuple[list[Any], list[str], list[str]]:
    """Labelled photos, their labels as they stand, and what was left out."""
    from cliplet.classification.labelled import read_labelled_photos
    from cliplet.errors import InputError

    data = read_labelled_photos(Path(source))
    if data.missing:
        name, why = next(iter(data.missing.items()))
        raise InputError(f"{source}: {len(data.missing)} labelled photos are missing, such as {name}: {why}")
    left_out = [f"{source}: {count} {why}" for why, count in data.notes.items()]
    return list(data.photos), [data.classes[i] for i in data.labels], left_out


def _encoder(making: dict[str, Any]) -> Any:
    from cliplet.encoders.registry import load

    encoder = load(making["model"], making["device"], making["precision"])
    if making["cache"] or making["cache_dir"]:
        from cliplet.encoders.cache import CachedEncoder, EmbeddingCache

        encoder = CachedEncoder(encoder, EmbeddingCache(making["cache_dir"]))
    return encoder


def _show(result: "Classified", folder: Path | None, save: str | None) -> None:
    facts = result.summary()
    for note in result.notes[:SHOWN_FAILURES]:
        click.echo(f"note: {one_line(note)}")
    for row in list(result.rows())[:SHOWN] if len(result) <= SHOWN or folder is None else ():
        if row["reason"] is None:
            others = ", ".join(f"{one_line(name)} {share:.2f}" for name, share in row["top"])
            click.echo(f"{one_line(row['photo'])}: {one_line(row['label'])}  ({others})")
    if len(result) > SHOWN:
        for label, count in list(facts["labels"].items())[:SHOWN]:
            click.echo(f"{count:>6}  {one_line(label)}")
        if len(facts["labels"]) > SHOWN:
            click.echo(f"        and {len(facts['labels']) - SHOWN} more classes")
    click.echo(
        f"{facts['photos']} photos, {facts['classified']} classified, {facts['failed']} failed; {len(result.classes)} "
        f"classes; confidence {facts['confidence']}; model {result.provenance['model']}"
    )
    for i, why in sorted(result.reasons.items())[:SHOWN_FAILURES]:
        click.echo(f"failed: {one_line(result.names[i])}: {one_line(why)}")
    if len(result.reasons) > SHOWN_FAILURES:
        click.echo(f"failed: and {len(result.reasons) - SHOWN_FAILURES} more; --json lists them all")
    if folder is not None:
        click.echo(f"written: {folder / 'report.html'}, rows.csv, rows.jsonl, summary.json")
    if save is not None:
        click.echo(f"saved: {save}")
