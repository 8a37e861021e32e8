"""What ``cliplet score --out`` writes: rows, summary and a one-file HTML report."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from cliplet.files import write_atomically
from cliplet.reports.explain import STYLE, coloured_caption
from cliplet.reports.page import Photos, breakable, escape, page
from cliplet.reports.svg import histogram
from cliplet.scoring.explain import Explanation
from cliplet.scoring.file import ScoreTable
from cliplet.statistics.resampling import Interval

SHOWN = 12
"""Worst and best captions shown with their photos."""
TABLE_ROWS = 5_000
"""Rows of the searchable table; beyond them rows.csv is the place to look."""
TABLE_PHOTOS = 1_000
"""Distinct photos shown small in the table, so that the page stays a few MB."""
FOLDED = 10
"""Failures that stand open; a longer list folds."""
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a formula of a spreadsheet begins with."""


def write_score_report(
    table: ScoreTable,
    folder: Path,
    safe_csv: bool = False,
    explained: Mapping[int, Explanation] | None = None,
    good: str = "",
    means: bool = True,
) -> None:
    """Write ``rows.jsonl``, ``rows.csv``, ``summary.json`` and ``report.html``, each whole or not at all.

    ``safe_csv``: an apostrophe goes before what a spreadsheet would take for a formula in ``rows.csv``.
    ``explained``, ``good`` and ``means`` as of :func:`score_page`.

    Raises:
        InputError: the disk is full or the folder cannot be written.
    """
    lines = (json.dumps(row, ensure_ascii=True) for row in table.rows)
    write_atomically(folder / "rows.jsonl", "\n".join(lines) + "\n")
    write_atomically(folder / "rows.csv", csv_text(table.rows, safe_csv))
    summary = {
        "summary": table.summary(),
        "provenance": table.provenance,
        "images_without_caption": table.images_without_caption,
    }
    write_atomically(folder / "summary.json", json.dumps(summary, indent=2, ensure_ascii=True) + "\n")
    write_atomically(folder / "report.html", score_page(table, explained, good, means))


def lowest_rows(table: ScoreTable, most: int = SHOWN) -> list[int]:
    """The rows of the lowest scores, the lowest first: those that the report shows, at most ``most``."""
    field = table.fields[next(iter(table.intervals))]
    scored = [i for i, row in enumerate(table.rows) if row["reason"] is None and row[field] is not None]
    scored.sort(key=lambda i: table.rows[i][field])
    return scored[: min(most, SHOWN, (len(scored) + 1) // 2)]


def score_page(
    table: ScoreTable,
    explained: Mapping[int, Explanation] | None = None,
    good: str = "",
    means: bool = True,
) -> str:
    """The report: corpus values, distribution, worst and best captions with photos, failures, all rows searchable.

    Args:
        table: the rows.
        explained: explanations by row; those of the lowest rows are shown with them.
        good: a paragraph on what a good score is.
        means: whether the corpus values stand first; they mean nothing where right and wrong captions are mixed.
    """
    explained = explained or {}
    main = next(iter(table.intervals))
    field = table.fields[main]
    scored = [i for i, row in enumerate(table.rows) if row["reason"] is None and row[field] is not None]
    scored.sort(key=lambda i: table.rows[i][field])
    photos = Photos(table.photos)
    values = [table.rows[i][field] for i in scored]
    parts = [
        f"<style>{STYLE}</style>" * bool(explained),
        _corpus(table, means),
        f"<p>{escape(good)}</p>" * bool(good),
    ]
    parts.append(_notes(table))
    if scored:
        chart = histogram({main: values}, title=f"Distribution of {main}", x_label=main)
        parts.append(f"<section><h2>Distribution</h2>{chart}</section>")
        shown = min(SHOWN, (len(scored) + 1) // 2)
        parts.append(_gallery(f"Lowest {main}", scored[:shown], table, field, photos, explained))
        parts.append(_gallery(f"Highest {main}", scored[::-1][:shown], table, field, photos))
    parts += [_diversity(table), _failures(table), _all_rows(table, main, field, photos), _provenance(table)]
    return page(f"cliplet report: {table.title}", "\n".join(parts), script=SEARCH)


def csv_text(rows: Sequence[dict[str, Any]], safe: bool = False) -> str:
    """Rows as a CSV with a header; ``safe``: an apostrophe before what a spreadsheet would take for a formula."""
    stream = io.StringIO(newline="")
    names = list(dict.fromkeys(chain.from_iterable(rows)))
    writer, quoting = (
        csv.DictWriter(stream, names, lineterminator="\n", quoting=how)
        for how in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL)
    )
    shown = _defused if safe else lambda value: value
    for row in ({name: name for name in names}, *rows):
        cells = {k: "" if v is None else shown(v) for k, v in row.items()}
        # Python before 3.13 leaves a carriage return without quotes, where it ends the row
        (quoting if any("\r" in v for v in cells.values() if isinstance(v, str)) else writer).writerow(cells)
    return stream.getvalue()


def _defused(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula; numbers stay numbers."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def _corpus(table: ScoreTable, means: bool) -> str:
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{i.value:.4f}</td><td>{_range(i)}</td><td>{i.n}</td></tr>"
        for name, i in table.intervals.items()
    )
    facts = table.summary()
    counts = f"{facts['captions']} captions, {facts['scored']} scored, {facts['failed']} failed"
    model = "No model: metrics on references alone"
    if table.with_model:
        model = f"Model {escape(table.provenance['model'])}, preset {escape(table.provenance['preset'])}"
    return f"<p>{counts}. {model}.</p>" + means * (
        f'<div class="scroll"><table class="numbers"><thead><tr><th>score</th>'
        f"<th>mean</th><th>95 % interval</th><th>captions</th></tr>"
        f"</thead><tbody>{rows}</tbody></table></div>"
    )


def _range(interval: Interval) -> str:
    return "" if interval.low != interval.low else f"{interval.low:.4f} to {interval.high:.4f}"


def _diversity(table: ScoreTable) -> str:
    rows = "".join(f"<tr><td>{escape(n)}</td><td>{v:.4g}</td></tr>" for n, v in table.diversity.items())
    return (
        '<section><h2>The captions as a set</h2><div class="scroll">'
        f'<table class="numbers">{rows}</table></div></section>'
        if rows
        else ""
    )


def _notes(table: ScoreTable) -> str:
    notes = list(table.notes)
    if table.images_without_caption:
        names = ", ".join(table.images_without_caption[:5])
        notes.append(f"{len(table.images_without_caption)} photos have no caption: {names} ...")
    return f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in notes)}</ul>" if notes else ""


def _gallery(
    title: str,
    chosen: list[int],
    table: ScoreTable,
    field: str,
    photos: Photos,
    explained: Mapping[int, Explanation] | None = None,
) -> str:
    cards = []
    for i in chosen:
        row, why = table.rows[i], (explained or {}).get(i)
        caption = escape(row["caption"]) if why is None else coloured_caption(why)
        reason = "" if why is None else f"<small>{escape(why.message)}</small>"
        match = "" if row.get("match") is None else f' <span class="match">match {row["match"]:.2f}</span>'
        cards.append(
            f"<figure>{photos.img(i, 260, str(row['image']))}<figcaption><b>{row[field]:.3f}</b>{match} "
            f'{caption}{reason}<small class="name">{breakable(row["image"])}</small></figcaption></figure>'
        )
    return f'<section><h2>{escape(title)}</h2><div class="gallery">{"".join(cards)}</div></section>'


def _failures(table: ScoreTable) -> str:
    rows = table.failures
    if not rows:
        return ""
    body = "".join(
        f"<tr><td>{breakable(r['where'])}</td><td>{breakable(r['image'])}</td>"
        f'<td class="text">{breakable(r["reason"])}</td></tr>'
        for r in rows[:TABLE_ROWS]
    )
    listed = (
        '<div class="scroll"><table><thead><tr><th>where</th><th>image</th><th>reason</th></tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
    if len(rows) > FOLDED:
        more = len(rows) - TABLE_ROWS
        rest = f"; the last {more} are in rows.csv" if more > 0 else ""
        listed = f"<details><summary>Show all {len(rows)} captions that have no score{rest}</summary>{listed}</details>"
    shown = f": the first {len(rows)}" if table.failed > len(rows) else ""
    return f"<section><h2>Not scored ({table.failed}){shown}</h2>{listed}</section>"


def _all_rows(table: ScoreTable, main: str, field: str, photos: Photos) -> str:
    shown, distinct = [], set()
    for i, row in enumerate(table.rows[:TABLE_ROWS]):
        distinct.add(str(row["image"]))
        photo = photos.img(i, 64, "") if len(distinct) <= TABLE_PHOTOS else ""
        value = "" if row[field] is None else f"{row[field]:.3f}"
        shown.append(
            f'<tr><td>{photo}</td><td class="value">{value}</td><td class="text">{escape(row["caption"])}</td>'
            f"<td>{breakable(row['image'])}</td></tr>"
        )
    more = len(table.rows) - len(shown)
    rest = f"<p>{more} more rows are in rows.csv.</p>" if more else ""
    if table.sampled:
        rest = f"<p>A sample of {len(shown)} of {table.captions} rows; all of them are in the parts.</p>"
    title = "Some captions" if table.sampled else "All captions"
    return (
        f'<section><h2>{title}</h2><input id="search" type="search" placeholder="search captions and file names" '
        f'aria-label="search"> <span id="count">{len(shown)} rows</span>'
        f'<div class="scroll"><table id="rows"><thead><tr><th>photo</th>'
        f'<th data-sort="number">{escape(main)} &#8597;</th>'
        f'<th data-sort="text">caption &#8597;</th><th data-sort="text">image &#8597;</th></tr></thead>'
        f"<tbody>{''.join(shown)}</tbody></table></div>{rest}</section>"
    )


def _provenance(table: ScoreTable) -> str:
    text = json.dumps(table.provenance, indent=2, ensure_ascii=False, default=str)
    return f"<section><h2>Provenance</h2><pre>{escape(text)}</pre></section>"


SEARCH = """
const body = document.querySelector('#rows tbody');
const rows = [...body.rows];
const text = rows.map(r => r.textContent.toLowerCase());
const box = document.getElementById('search');
box.addEventListener('input', () => {
  const words = box.value.toLowerCase().split(/\\s+/).filter(Boolean);
  let shown = 0;
  rows.forEach((row, i) => {
    const hit = words.every(w => text[i].includes(w));
    row.hidden = !hit;
    shown += hit;
  });
  document.getElementById('count').textContent = shown + ' rows';
});
document.querySelectorAll('#rows th[data-sort]').forEach(th => {
  let up = false;
  th.addEventListener('click', () => {
    up = !up;
    const at = th.cellIndex, numeric = th.dataset.sort === 'number';
    const key = r => numeric ? parseFloat(r.cells[at].textContent || 'Infinity') : r.cells[at].textContent;
    const order = [...rows].sort((a, b) => (key(a) > key(b) ? 1 : key(a) < key(b) ? -1 : 0) * (up ? 1 : -1));
    order.forEach(r => body.append(r));
  });
});
"""
"""Script of a page whose table ``rows`` is searched and sorted."""
