"""``cliplet demo``: score real photos without any file of your own."""

from collections.abc import Sequence

import click

from cliplet.cli import options
from cliplet.cli.score import compute_table, explain_lowest


@click.command()
@click.option(
    "--out", default="cliplet-demo", show_default=True, metavar="DIR", help="Folder for the report."
)
@options.model
def demo(out: str, model: str | None) -> None:
    """Score six real photos with a right and a near-wrong caption each, and write a report.

    The photos are those that scikit-image ships: pip install 'cliplet[demo]'.
    """
    from cliplet.files import writable_folder
    from cliplet.reports.score import write_score_report
    from cliplet.scoring.demo import GOOD_SCORE, demo_photos, write_demo_captions
    from cliplet.scoring.scorer import Scorer

    photos = demo_photos()
    folder = writable_folder(out)
    captions = write_demo_captions(folder)
    click.echo(f"$ cliplet score {captions} --images {photos} --out {out}")
    scorer = Scorer(model)
    table = compute_table(scorer, str(captions), str(photos))
    click.echo("match  CLIPScore")
    best: dict[str, float] = {}
    wrong = []
    for row in table.rows:
        match, score = (_shown(row.get(name), width) for name, width in (("match", 5), ("clip_score", 9)))
        click.echo(f"{match}  {score}  {row['image']:<20} {row['caption']}")
        if row["image"] not in best:  # the right caption stands first
            best[row["image"]] = row["cosine"]
        elif not best[row["image"]] > row["cosine"] and row["image"] not in wrong:
            wrong.append(row["image"])
    verdict = _verdict(len(best), wrong)
    click.echo(verdict)
    good = verdict if model else f"{verdict} {GOOD_SCORE}"
    write_score_report(table, folder, False, explain_lowest(table, scorer, 12), good, means=False)
    click.echo(f"written: {folder / 'report.html'}, rows.jsonl, rows.csv, summary.json")


def _verdict(count: int, wrong: Sequence[str]) -> str:
    """How often the right caption, which stands first, has the highest score."""
    if not wrong:
        return f"The right caption, the first of each photo, has the highest score on all {count} photos."
    return (
        f"The right caption, the first of each photo, has the highest score on {count - len(wrong)} of {count} photos; "
        f"not on {', '.join(wrong)}."
    )


def _shown(value: float | None, width: int) -> str:
    return f"{'-' if value is None else f'{value:.3f}':>{width}}"
