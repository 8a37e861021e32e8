"""What ``cliplet classify --out`` writes: rows as JSON lines and CSV, a summary, and a page with the photos."""

import json
from pathlib import Path

from cliplet.classification.result import NONE, Classified
from cliplet.files import write_atomically
from cliplet.reports.page import Photos, breakable, escape, page
from cliplet.reports.score import FOLDED, SEARCH, csv_text

CLASSES_SHOWN = 40
"""Classes with a row of photos of their own, the most frequent ones."""
A_CLASS = 6
"""Photos shown of each, the surest ones."""
UNSURE = 12
"""Photos shown of the least sure ones, and of none of the classes."""
TABLE_ROWS = 5_000
"""Rows of the searchable table; beyond them rows.csv is the place to look."""
TABLE_PHOTOS = 300
"""Photos shown small in the table."""


def write_classified(result: Classified, folder: Path, safe_csv: bool = False) -> None:
    """Write ``rows.jsonl``, ``rows.csv``, ``summary.json`` and ``report.html``, each whole or not at all.

    Raises:
        InputError: the disk is full or the folder cannot be written.
    """
    lines = (json.dumps(row, ensure_ascii=True) for row in result.rows())
    write_atomically(folder / "rows.jsonl", "\n".join(lines) + "\n")
    write_atomically(folder / "rows.csv", csv_text(result.flat_rows(), safe_csv))
    content = {key: value for key, value in result.as_json().items() if key != "rows"}
    write_atomically(folder / "summary.json", json.dumps(content, indent=2, ensure_ascii=True) + "\n")
    write_atomically(folder / "report.html", classified_page(result))


def classified_page(result: Classified) -> str:
    """The report: counts, each class with its surest photos, the least sure photos, failures, all rows searchable."""
    photos = Photos(result.photos)
    used = [i for i in range(len(result)) if i not in result.reasons]
    by_confidence = sorted(used, key=lambda i: -float(result.confidence[i, 0]))
    of_class: dict[str, list[int]] = {}
    for i in by_confidence:
        for label in result.answers[i] or [NONE]:
            of_class.setdefault(label, []).append(i)
    none = of_class.pop(NONE, [])
    parts = [_head(result)]
    unsure = [i for i in reversed(by_confidence) if result.answers[i]][:UNSURE]
    if len(used) > UNSURE:
        parts.append(_section("The least sure", unsure, result, photos))
    if none:
        parts.append(_section(f"None of these ({len(none)})", none[:UNSURE], result, photos))
    common = sorted(of_class.items(), key=lambda item: (-len(item[1]), item[0]))
    for label, rows in common[:CLASSES_SHOWN]:
        parts.append(_section(f"{label} ({len(rows)})", rows[:A_CLASS], result, photos))
    if len(common) > CLASSES_SHOWN:
        parts.append(f"<p>{len(common) - CLASSES_SHOWN} more classes are in rows.csv.</p>")
    parts += [_failures(result), _all_rows(result, photos), _provenance(result)]
    return page("cliplet classify", "\n".join(parts), script=SEARCH)


def _head(result: Classified) -> str:
    facts = result.summary()
    counts = f"{facts['photos']} photos, {facts['classified']} classified, {facts['failed']} failed"
    about = (
        "The confidence was fitted to held-out labelled photos."
        if result.calibrated
        else "The confidence is uncalibrated: it orders photos, but 0.9 does not mean right nine times in ten. Give "
        "labelled photos with --held-out to fit it."
    )
    notes = "".join(f"<li>{escape(note)}</li>" for note in result.notes)
    folded = (
        f"<details><summary>{len(result.notes)} notes</summary><ul>{notes}</ul></details>" if notes else ""
    )
    model = escape(result.provenance["model"])
    return f"<p>{counts}; {len(result.classes)} classes. Model {model}. {about}</p>{folded}"


def _section(title: str, rows: list[int], result: Classified, photos: Photos) -> str:
    cards = "".join(_card(i, result, photos) for i in rows)
    return f'<section><h2>{escape(title)}</h2><div class="gallery">{cards}</div></section>'


def _card(i: int, result: Classified, photos: Photos) -> str:
    name = result.names[i]
    image = photos.img(i, 260, Path(name).name) or "<p>cannot be shown: the file is gone or broken</p>"
    said = " | ".join(result.answers[i]) or NONE
    shares = ", ".join(
        f"{result.classes[c]} {p:.2f}" for c, p in zip(result.top[i], result.confidence[i], strict=True)
    )
    return (
        f"<figure>{image}<figcaption><b>{escape(said)}</b><small>{escape(shares)}</small>"
        f'<small class="name">{breakable(name)}</small></figcaption></figure>'
    )


def _failures(result: Classified) -> str:
    if not result.reasons:
        return ""
    items = "".join(
        f"<li>{breakable(result.names[i])}: {escape(why)}</li>"
        for i, why in sorted(result.reasons.items())[:TABLE_ROWS]
    )
    listed = f"<ul>{items}</ul>"
    if len(result.reasons) > FOLDED:
        listed = f"<details><summary>Show all {len(result.reasons)}</summary>{listed}</details>"
    return f"<section><h2>Not classified ({len(result.reasons)})</h2>{listed}</section>"


def _all_rows(result: Classified, photos: Photos) -> str:
    shown = []
    for i in range(min(len(result), TABLE_ROWS)):
        bad = i in result.reasons
        image = photos.img(i, 64, "") if i < TABLE_PHOTOS and not bad else ""
        sure = None if bad else result.confidence_of(i)
        value = "" if sure is None else f"{sure:.3f}"
        said = "failed" if bad else " | ".join(result.answers[i]) or NONE
        shown.append(
            f'<tr><td>{image}</td><td class="value">{value}</td><td class="text">{escape(said)}</td>'
            f"<td>{breakable(result.names[i])}</td></tr>"
        )
    more = len(result) - len(shown)
    rest = f"<p>{more} more rows are in rows.csv.</p>" if more else ""
    return (
        '<section><h2>All photos</h2><input id="search" type="search" placeholder="search classes and file names" '
        f'aria-label="search"> <span id="count">{len(shown)} rows</span><div class="scroll"><table id="rows"><thead>'
        '<tr><th>photo</th><th data-sort="number">confidence &#8597;</th><th data-sort="text">class &#8597;</th>'
        '<th data-sort="text">file &#8597;</th></tr></thead>'
        f"<tbody>{''.join(shown)}</tbody></table></div>{rest}</section>"
    )


def _provenance(result: Classified) -> str:
    text = json.dumps(result.provenance, indent=2, ensure_ascii=False, default=str)
    return f"<section><h2>Provenance</h2><pre>{escape(text)}</pre></section>"
