"""``cliplet demo``: score real photos without any file of your own."""

import click

from cliplet.cli import options
from cliplet.cli.score import compute_table, explain_lowest, show_table


@click.command()
@click.option(
    "--out", default="cliplet-demo", show_default=True, metavar="DIR", help="Folder for the report."
)
@options.model
def demo(out: str, model: str | None) -> None:
    """Score six real photos with a right and a wrong caption each, and write a report.

    The photos are those that scikit-image ships: pip install 'cliplet[demo]'.
    """
    from cliplet.files import writable_folder
    from cliplet.scoring.demo import GOOD_SCORE, demo_photos, write_demo_captions
    from cliplet.scoring.scorer import Scorer

    photos = demo_photos()
    folder = writable_folder(out)
    captions = write_demo_captions(folder)
    click.echo(f"$ cliplet score {captions} --images {photos} --out {out}")
    scorer = Scorer(model)
    table = compute_table(scorer, str(captions), str(photos))
    show_table(table, folder, explained=explain_lowest(table, scorer, 12), good="" if model else GOOD_SCORE)
    click.echo()
    click.echo("match  CLIPScore")
    for row in table.rows:
        match, score = (_shown(row.get(name), width) for name, width in (("match", 5), ("clip_score", 9)))
        click.echo(f"{match}  {score}  {row['image']:<20} {row['caption']}")


def _shown(value: float | None, width: int) -> str:
    return f"{'-' if value is None else f'{value:.3f}':>{width}}"
