"""``cliplet index``: make, renew and prune an index of photos."""

import sys
from typing import TYPE_CHECKING, Any

import click

from cliplet.cli import options
from cliplet.cli.console import one_line, print_json, progress_bar

if TYPE_CHECKING:
    from cliplet.search.update import Changes

SHOWN = 10


@click.command()
@click.argument("photos", nargs=-1)
@click.option("--out", required=True, metavar="FILE.lance",
              help="The index: a folder that ends in .lance, or an address as s3://bucket/photos.lance.")  # fmt: skip
@click.option("--remove", multiple=True, metavar="PATH",
              help="Photo or folder to take out for good; may be repeated.")  # fmt: skip
@click.option(
    "--restore", multiple=True, metavar="PATH", help="Photo or folder that was taken out to allow again."
)
@click.option("--rebuild", is_flag=True, help="Make it anew, as for another model.")
@options.model
@options.computing
@options.storage
@options.as_json
@click.option("--strict", is_flag=True, help="Exit with status 1 when a photo could not be used.")
def index(
    photos: tuple[str, ...],
    out: str,
    remove: tuple[str, ...],
    restore: tuple[str, ...],
    rebuild: bool,
    model: str | None,
    device: str | None,
    precision: str | None,
    storage: tuple[str, ...],
    as_json: bool,
    strict: bool,
) -> None:
    """Keep the embeddings of PHOTOS (folders, tars, files) for cliplet search.

    \b
    cliplet index holidays/ archive.tar --out photos.lance
    cliplet search photos.lance "a red bicycle"

    Given again, it adds new photos, renews changed ones and drops those that are gone from the places named. A run
    that is stopped goes on where it was.
    """
    from cliplet.search.index import Index
    from cliplet.search.update import check_places

    if not (photos or remove or restore):
        raise click.UsageError("give photos, --remove or --restore")
    if rebuild and (remove or restore or not photos):
        raise click.UsageError(
            "--rebuild is for photos alone: give --remove and --restore in a run of their own"
        )
    check_places(photos)
    options_of = storage_options(storage)
    if remove or restore:
        opened = Index.open(out, model, options_of, device=device, precision=precision)
    else:
        opened = Index.make(out, model, options_of, rebuild=rebuild, device=device, precision=precision)
    said: dict[str, Any] = {}
    if restore:
        said["restored"] = opened.restore(restore)
    if remove:
        said["taken out"] = opened.remove(remove)
    done = None
    if photos:
        with progress_bar("indexing") as progress:
            done = opened.update(photos, progress)
        said |= done.__dict__
    count = opened.photos
    if count > opened.ann_above:
        said["recall@10 of the approximate index"] = opened.recall()
    if as_json:
        print_json({"index": out, "photos": count, **said, "model": opened.encoder.card.name})
    else:
        _show(out, count, said, done)
    if strict and done is not None and done.failed:
        sys.exit(1)


def storage_options(given: tuple[str, ...]) -> dict[str, str] | None:
    """``NAME=VALUE`` strings as a dictionary; None for none."""
    pairs = [text.partition("=") for text in given]
    for text, (name, equals, _) in zip(given, pairs, strict=True):
        if not name or not equals:
            raise click.UsageError(f"--storage {text}: give NAME=VALUE")
    return {name: value for name, _, value in pairs} or None


def _show(out: str, count: int, said: dict[str, Any], done: "Changes | None") -> None:
    for what in ("restored", "taken out"):
        if what in said:
            click.echo(f"{what}: {len(said[what])} photos")
    if done is not None:
        names = ("added", "changed", "removed", "unchanged", "hidden")
        shown = [f"{getattr(done, name)} {name}" for name in names if getattr(done, name) or name == "added"]
        fresh = done.added + done.changed - done.copied
        rate = f" ({fresh / done.seconds:.0f} photos a second)" if fresh > 0 and done.seconds else ""
        click.echo(f"{', '.join(shown)} in {done.seconds:.1f} s{rate}")
        if done.failed:
            click.echo(f"failed: {len(done.failed)}")
            for path, reason in list(done.failed.items())[:SHOWN]:
                click.echo(f"  {one_line(path)}: {one_line(reason)}")
            if len(done.failed) > SHOWN:
                click.echo(f"  and {len(done.failed) - SHOWN} more; --json lists them all")
    if "recall@10 of the approximate index" in said:
        click.echo(f"recall@10 of the approximate index: {said['recall@10 of the approximate index']:.3f}")
    click.echo(f"{out}: {count} photos")
