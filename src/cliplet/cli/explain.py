"""``cliplet explain``: why a caption has its score with a photo."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cliplet.cli import options
from cliplet.cli.console import one_line, print_json
from cliplet.errors import InputError

if TYPE_CHECKING:
    from cliplet.scoring.explain import Explanation, SentenceJudgement

BAR = 16
"""Widest bar, in characters."""


@click.command()
@click.argument("photo")
@click.argument("caption")
@click.option("--out", metavar="FILE", help="Page (.html) or picture (.png) of the explanation.")
@click.option(
    "--no-regions", is_flag=True, help="Leave out where the photo shows each phrase: half the time."
)
@options.as_json
@options.model
@options.computing
@options.preset
def explain(
    photo: str,
    caption: str,
    out: str | None,
    no_regions: bool,
    as_json: bool,
    model: str | None,
    device: str | None,
    precision: str | None,
    preset: str,
) -> None:
    """Say why CAPTION has its score with PHOTO.

    \b
    cliplet explain dog.jpg "a black cat on the beach"
    cliplet explain dog.jpg "a black cat on the beach" --out why.html

    Each word and phrase gets its share of the score and its place in the photo; the word most likely wrong is named;
    a caption of several sentences is judged sentence by sentence.
    """
    target = None if out is None else _target(out)
    if target is not None and target.exists() and Path(photo).exists() and target.samefile(photo):
        raise click.UsageError("--out is the photo itself")
    from cliplet.scoring.explain import Explainer
    from cliplet.scoring.scorer import Scorer

    scorer = Scorer(model, preset, device=device, precision=precision)
    found = Explainer(scorer=scorer).explain(photo, caption, regions=not no_regions)
    if target is not None:
        _write(found, photo, target)
    if as_json:
        print_json(found.to_dict() | {"image": photo})
        return
    _print(found)
    if target is not None:
        click.echo(f"written: {target}")


def _target(out: str) -> Path:
    """Where the page or picture goes; refused before any work."""
    path = Path(out)
    if path.suffix.lower() not in (".html", ".png"):
        raise click.UsageError(f"--out {out} must end in .html or .png")
    if not path.absolute().parent.is_dir():
        raise InputError(f"--out {out}: its folder does not exist")
    return path


def _write(found: "Explanation", photo: str, path: Path) -> None:
    import io

    from cliplet.files import write_atomically

    if path.suffix.lower() == ".html":
        from cliplet.reports.explain import explain_page

        write_atomically(path, explain_page(found, photo, Path(photo).name))
        return
    from cliplet.reports.explain_image import explain_image

    stream = io.BytesIO()
    explain_image(found, photo).save(stream, "PNG")
    write_atomically(path, stream.getvalue())


def _print(found: "Explanation") -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False)
    name = {"paper": "CLIPScore", "torchmetrics": "100*cos"}.get(found.preset, found.preset)
    console.print(f"{name} {found.score:.3f}", style="bold")
    for judged in found.sentences:
        console.print()
        if len(found.sentences) > 1:
            console.print(f"{judged.score:.3f}  {judged.verdict}", style="bold")
        console.print(_coloured(found, judged))
        console.print(_table(judged))
    console.print()
    console.print(escape(one_line(found.message)))
    for note in found.notes:
        console.print(escape(f"note: {one_line(note)}"))


def _coloured(found: "Explanation", judged: "SentenceJudgement") -> Any:
    """The sentence, what adds in green, what takes away in red, the word most likely wrong underlined."""
    from rich.text import Text

    text = Text(one_line(found.caption[judged.start : judged.end]))
    largest = max((abs(u.share) for u in judged.units), default=0.0) or 1.0
    for unit in judged.units:
        style = "green" if unit.share >= 0 else "red"
        weight = "bold " if abs(unit.share) > largest / 2 else "dim " if abs(unit.share) < largest / 8 else ""
        text.stylize(weight + style, unit.start - judged.start, unit.end - judged.start)
    wrong = judged.wrong_word
    if wrong is not None:
        text.stylize("underline", wrong.start - judged.start, wrong.end - judged.start)
    return text


def _table(judged: "SentenceJudgement") -> Any:
    from rich.markup import escape
    from rich.table import Table

    from cliplet.reports.explain import place

    largest = max((abs(u.share) for u in judged.units), default=0.0) or 1.0
    grid = Table(box=None, pad_edge=False)
    grid.add_column("words", max_width=26)
    grid.add_column("share", justify="right", no_wrap=True)
    grid.add_column("left out", justify="right", no_wrap=True)
    grid.add_column("", no_wrap=True, min_width=BAR)
    grid.add_column("where", max_width=13)
    for u in judged.units:
        bar = ("+" if u.share >= 0 else "-") * round(BAR * abs(u.share) / largest)
        where = "" if u.region is None else place(u.region.x, u.region.y)
        style = "green" if u.share >= 0 else "red"
        grid.add_row(
            escape(one_line(u.text)), f"{u.share:+.3f}", f"{u.left_out:+.3f}", f"[{style}]{bar}[/]", where
        )
    return grid
