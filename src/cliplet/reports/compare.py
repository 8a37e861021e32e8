"""What ``cliplet compare --out`` writes: all numbers and a one-file HTML report of where captioners differ."""

import csv
import io
import json
from pathlib import Path

import numpy as np

from cliplet.files import write_atomically
from cliplet.reports.page import Photos, escape, page
from cliplet.scoring.compare import Comparison, Difference

SHOWN = 12
"""Photos shown for each side of each pair."""


def write_comparison(comparison: Comparison, folder: Path) -> None:
    """Write ``comparison.json``, ``per_image.csv`` and ``report.html``, each whole or not at all.

    Raises:
        InputError: the disk is full or the folder cannot be written.
    """
    provenance = {name: t.provenance for name, t in zip(comparison.names, comparison.tables, strict=True)}
    content = {"summary": comparison.summary(), "provenance": provenance}
    write_atomically(folder / "comparison.json", json.dumps(content, indent=2, ensure_ascii=True) + "\n")
    write_atomically(folder / "per_image.csv", _per_image_csv(comparison))
    write_atomically(folder / "report.html", comparison_page(comparison))


def _per_image_csv(comparison: Comparison) -> str:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    columns = [(metric, k) for metric in comparison.per_image for k in range(len(comparison.names))]
    writer.writerow(["image", *(f"{metric} {comparison.names[k]}" for metric, k in columns)])
    for i, image in enumerate(comparison.images):
        values = (comparison.per_image[metric][i, k] for metric, k in columns)
        writer.writerow([image, *("" if np.isnan(v) else f"{v:.6f}" for v in values)])
    return stream.getvalue()


def comparison_page(comparison: Comparison) -> str:
    """The report: every metric of every captioner, the tests, and the photos on which two captioners differ most."""
    photos = [Photos(table.photos) for table in comparison.tables]
    parts = [_values(comparison), _tests(comparison)]
    main = next(iter(comparison.per_image))
    for a in range(len(comparison.names)):
        for b in range(a + 1, len(comparison.names)):
            parts.append(_gallery(comparison, main, a, b, photos))
            parts.append(_gallery(comparison, main, b, a, photos))
    notes = "".join(f"<li>{escape(note)}</li>" for note in comparison.notes)
    parts.append(f"<ul>{notes}</ul>" if notes else "")
    return page("cliplet: " + " against ".join(comparison.names), "\n".join(parts))


def _values(comparison: Comparison) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in comparison.names)
    rows = []
    for metric, intervals in comparison.intervals.items():
        best = max((i.value for i in intervals if not np.isnan(i.value)), default=None)
        cells = "".join(
            f"<td>{'<b>' if i.value == best else ''}{i.value:.4f}{'</b>' if i.value == best else ''}"
            f"<small>{_range(i.low, i.high)}</small></td>"
            for i in intervals
        )
        rows.append(f"<tr><td>{escape(metric)}</td>{cells}</tr>")
    for measure in comparison.tables[0].diversity:
        cells = "".join(
            f"<td>{t.diversity[measure]:.4g}</td>" for t in comparison.tables if measure in t.diversity
        )
        rows.append(f"<tr><td>{escape(measure)}</td>{cells}</tr>")
    left = ", ".join(f"{escape(n)}: {k}" for n, k in comparison.left_out.items() if k)
    out = f" Images left out because another file has no scored caption for them: {left}." if left else ""
    return (
        f"<p>{len(comparison.images)} images that all captioners have.{out} Small print: 95 % bootstrap intervals, "
        "images resampled. From mean length down: all scored captions of each file. A caption that is empty or no text "
        "counts 0 in what the model scores; the rows called answered leave it out.</p>"
        f'<div class="scroll"><table class="numbers"><thead><tr><th>metric</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _range(low: float, high: float, sign: str = "") -> str:
    return "" if np.isnan(low) else f"{low:{sign}.4f} to {high:{sign}.4f}"


def better(difference: Difference) -> str | None:
    """The captioner whose value is higher at the 5 % level after correction; None where neither is."""
    if difference.p_adjusted > 0.05:
        return None
    return difference.first if difference.test.difference > 0 else difference.second


def _tests(comparison: Comparison) -> str:
    rows = "".join(
        f"<tr><td>{escape(d.metric)}</td><td>{escape(d.first)} &minus; {escape(d.second)}</td>"
        f"<td>{d.test.difference:+.4f}<small>{_range(d.test.low, d.test.high, '+')}</small></td>"
        f"<td>{d.p_adjusted:.4f}<small>{d.test.p_value:.4f} alone</small></td>"
        f"<td>{d.wins} / {d.losses} / {d.ties}</td><td>{escape(better(d) or 'no clear difference')}</td></tr>"
        for d in comparison.differences
    )
    return (
        "<section><h2>Differences</h2><p>Paired bootstrap intervals; permutation p-values, corrected for all rows of "
        "this table (Holm). Wins, losses and ties are images. The intervals are not corrected, so one may exclude 0 "
        "beside 'no clear difference'. Near copies of one metric (BLEU-1 to 4, CLIPScore and cosine) each count as a "
        "test, which makes the correction strict: choose the metrics beforehand.</p>"
        '<div class="scroll"><table><thead><tr><th>metric</th>'
        "<th>pair</th><th>difference</th><th>p, corrected</th><th>wins / losses / ties</th><th>higher</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def _gallery(comparison: Comparison, metric: str, better: int, worse: int, photos: list[Photos]) -> str:
    """The photos on which one captioner's score exceeds the other's most."""
    values = comparison.per_image[metric]
    gap = values[:, better] - values[:, worse]
    cards = []
    for i in np.argsort(-gap, kind="stable")[:SHOWN]:
        if not gap[i] > 0:  # nor where this metric has no value
            break
        row = comparison.rows[better][i][0]
        lines = "".join(
            f"<div><b>{values[i, k]:.3f}</b> {escape(comparison.names[k])}: "
            f"{escape(comparison.tables[k].rows[comparison.rows[k][i][0]]['caption'] or '(no caption)')}</div>"
            for k in (better, worse)
        )
        name = comparison.images[i]
        cards.append(
            f"<figure>{photos[better].img(row, 260, name)}<figcaption>{lines}"
            f"<small>{escape(name)}</small></figcaption></figure>"
        )
    title = f"{comparison.names[better]} above {comparison.names[worse]} by {metric}"
    return (
        f'<section><h2>{escape(title)}</h2><div class="gallery">{"".join(cards)}</div></section>'
        if cards
        else ""
    )
