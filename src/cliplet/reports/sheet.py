"""A contact sheet: photos that were found, in one HTML file."""

from collections.abc import Sequence
from pathlib import Path

from cliplet.data.images import ImageInput
from cliplet.files import write_atomically
from cliplet.reports.page import Photos, escape, page

SIDE = 320


def write_sheet(
    path: str | Path,
    title: str,
    photos: Sequence[ImageInput],
    scores: Sequence[float],
    names: Sequence[str],
    also: Sequence[Sequence[str]],
) -> None:
    """Write found photos as a page of thumbnails, each with its rank, score, path and the photos that repeat it.

    Raises:
        InputError: the file cannot be written.
    """
    shown = Photos(photos)
    cards = [_card(shown, i, scores[i], names[i], also[i]) for i in range(len(photos))]
    count = f"{len(cards)} photos" if len(cards) != 1 else "1 photo"
    body = f'<p>{count}, the nearest first.</p><div class="gallery">{"".join(cards)}</div>'
    write_atomically(path, page(title, body))


def _card(photos: Photos, i: int, score: float, name: str, also: Sequence[str]) -> str:
    image = photos.img(i, SIDE, Path(name).name) or "<p>cannot be shown: the file is gone or broken</p>"
    more = ""
    if also:
        items = "".join(f"<li>{escape(path)}</li>" for path in also)
        more = f"<details><summary>{len(also)} more like it</summary><ul>{items}</ul></details>"
    return (
        f"<figure>{image}<figcaption><b>{i + 1}.</b> {score:.3f} {escape(Path(name).name)}"
        f"<small>{escape(name)}</small>{more}</figcaption></figure>"
    )
