"""The report of a curation: what was lost and why, the table of thresholds, and pairs to look at."""

import heapq
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from cliplet.curate.decide import Counts, Measured, pair_name
from cliplet.curate.result import Curated
from cliplet.curate.rules import RULES, Rules
from cliplet.curate.work import CurateWork
from cliplet.errors import ClipletError
from cliplet.reports.page import breakable, escape, page, thumbnail
from cliplet.reports.svg import histogram
from cliplet.stream.plan import Plan

SHOWN = 12
"""Pairs of each gallery."""
SIDE = 260
FETCHED = 8
"""Remote sources that are fetched again for their photos, at most."""
SAMPLE = 4000
"""Values of the histogram, at most."""

Row = dict[str, Any]


@dataclass
class Samples:
    """Pairs to look at, chosen while all go by; memory does not grow with their number."""

    rules: Rules
    worst: list[tuple[float, int, Row]] = field(default_factory=list)
    below: list[tuple[float, int, Row]] = field(default_factory=list)
    above: list[tuple[float, int, Row]] = field(default_factory=list)
    kept: list[tuple[float, int, Row]] = field(default_factory=list)
    copies: list[tuple[float, int, Row]] = field(default_factory=list)
    others: dict[str, list[tuple[float, int, Row]]] = field(default_factory=dict)
    values: list[float] = field(default_factory=list)
    step: int = 1

    @property
    def border(self) -> tuple[str, float]:
        """The scale of the threshold, and where it is."""
        rules = self.rules
        for name in ("match", "score", "cosine"):
            least = getattr(rules, f"min_{name}")
            if least is not None:
                return name, float(least)
        return "match", 0.0

    def see(self, row: Row) -> None:
        """Look at a pair in passing."""
        place = row["row"]
        scale, least = self.border
        value = row[scale] if row[scale] is not None else row["cosine"]
        found = {reason["rule"] for reason in row["reasons"]}
        if value is not None:
            if not found - {"threshold", "share"}:
                _push(self.worst, -value, place, row)
                _push(
                    self.above if value >= least and not found else self.below,
                    -abs(value - least),
                    place,
                    row,
                )
            if place % self.step == 0:
                self._note(value)
        if not found:
            _push(self.kept, _mixed(place), place, row)
        for rule in found & {"near", "duplicate"}:
            _push(self.copies, _mixed(place) + (rule == "near"), place, row)
        for rule in found - {"near", "duplicate", "threshold", "share"}:
            _push(self.others.setdefault(rule, []), _mixed(place), place, row)

    def _note(self, value: float) -> None:
        self.values.append(value)
        if len(self.values) > SAMPLE:
            self.values, self.step = self.values[::2], 2 * self.step


def _push(heap: list[tuple[float, int, Row]], rank: float, place: int, row: Row) -> None:
    """Keep the pairs of the highest rank."""
    if len(heap) < SHOWN:
        heapq.heappush(heap, (rank, -place, row))
    elif (rank, -place) > heap[0][:2]:
        heapq.heapreplace(heap, (rank, -place, row))


def _mixed(place: int) -> float:
    """A number from 0 to 1 that spreads evenly and depends on the place alone."""
    return (place * 0x9E3779B97F4A7C15 % (1 << 64)) / (1 << 64)


def _best(heap: list[tuple[float, int, Row]]) -> list[Row]:
    return [row for _, _, row in sorted(heap, key=lambda item: (-item[0], -item[1]))]


def write_report(curated: Curated, samples: Samples, plan: Plan, measured: Measured, work: CurateWork) -> str:
    """The page."""
    counts = curated.counts
    scale = samples.border[0]
    galleries: list[tuple[str, str, list[Row]]] = [
        (
            f"Worst {scale}",
            "The pairs that fit least of those that no other rule removes.",
            _best(samples.worst),
        ),
        (
            "Just below the threshold",
            f"Removed for {scale} alone: would you keep them?",
            _best(samples.below),
        ),
        ("Just above the threshold", "Kept: would you remove them?", _best(samples.above)),
        ("Kept", "Drawn evenly from all that is kept.", _best(samples.kept)),
        ("Copies", "Each removed photo above the one that is kept.", _best(samples.copies)),
    ]
    galleries += [
        (f"Removed: {rule}", RULES[rule], _best(heap)) for rule, heap in sorted(samples.others.items())
    ]
    thumbs = _thumbnails([rows for _, _, rows in galleries], plan, measured, work)
    parts = [_head(counts), _removed(counts), threshold_section(counts, curated.rules)]
    if samples.values:
        drawn = "all" if samples.step == 1 else f"every {samples.step}th"
        chart = histogram({scale: samples.values}, title=f"Distribution of {scale}", x_label=scale)
        parts.append(
            f"<section><h2>Distribution of {scale}</h2><p>Of {drawn} scored pairs.</p>{chart}</section>"
        )
    parts += [_gallery(title, about, rows, scale, thumbs) for title, about, rows in galleries if rows]
    parts.append(_notes([*curated.notes]))
    facts = escape(json.dumps(curated.rules.facts(), indent=1))
    parts.append(f"<section><h2>Rules</h2><pre>{facts}</pre></section>")
    return page(f"cliplet curate: {curated.folder.name}", "\n".join(part for part in parts if part))


def _head(counts: Counts) -> str:
    share = counts.kept / counts.pairs if counts.pairs else 0
    return (
        f"<p><b>{counts.kept:,} of {counts.pairs:,} pairs are kept ({share:.1%})</b>, "
        f"{counts.pairs - counts.kept:,} are removed, each with its reasons in <code>removed.jsonl</code>.</p>"
    )


def _removed(counts: Counts) -> str:
    rows = "".join(
        f"<tr><td>{escape(rule)}: {escape(RULES[rule])}</td><td>{n:,}</td><td>{counts.only[rule]:,}</td></tr>"
        for rule, n in counts.rules.most_common()
    )
    return (
        '<section><h2>What was removed</h2><div class="scroll"><table class="numbers"><thead><tr><th>rule</th>'
        f"<th>pairs</th><th>by it alone</th></tr></thead><tbody>{rows}</tbody></table></div></section>"
    )


def threshold_rows(counts: Counts) -> list[tuple[str, str, str, str, str]]:
    """The table of thresholds: threshold, pairs at or above it, lost by it, kept with the other rules, cosine."""
    rows = []
    for least, (at, clean) in counts.matches.items():
        if any(found for found, _ in counts.matches.values()):
            lost = counts.scored - at
            rows.append((f"match {least:.1f}", f"{at:,}", f"{lost:,}", f"{clean:,}", ""))
    for share, (cosine, match, left) in reversed(counts.shares.items()):
        at = round(share * counts.scored)
        about = f"{cosine:.3f}" + ("" if match != match else f" / {match:.2f}")
        rows.append((f"top {share:.0%}", f"{at:,}", f"{counts.scored - at:,}", f"{int(left):,}", about))
    return rows


HEAD = ("threshold", "at or above", "lost by it", "kept, other rules too", "cosine / match")


def threshold_section(counts: Counts, rules: Rules) -> str:
    """The table of thresholds."""
    head = "".join(f"<th>{escape(name)}</th>" for name in HEAD)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
        for row in threshold_rows(counts)
    )
    return (
        f"<section><h2>Which threshold?</h2><p>Of {counts.scored:,} pairs with a score. Another threshold costs no "
        "measuring: give the same command with it.</p>"
        f'<div class="scroll"><table class="numbers"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        "</section>"
    )


def _gallery(title: str, about: str, rows: list[Row], scale: str, thumbs: dict[int, str]) -> str:
    cards = "".join(_card(row, scale, thumbs) for row in rows)
    return (
        f'<section><h2>{escape(title)}</h2><p>{escape(about)}</p><div class="gallery">{cards}</div></section>'
    )


def _card(row: Row, scale: str, thumbs: dict[int, str]) -> str:
    value = "" if row[scale] is None else f"<b>{scale} {row[scale]:.2f}</b> "
    reasons = "".join(f"<small>{escape(r['rule'])}: {breakable(r['why'])}</small>" for r in row["reasons"])
    images = _img(thumbs.get(row["row"], ""), row["image"])
    for reason in row["reasons"]:
        if reason["row"] is not None and reason["row"] in thumbs:
            images += _img(thumbs[reason["row"]], reason["of"] or "")
            break
    caption = "" if row["caption"] is None else escape(row["caption"])
    return (
        f"<figure>{images}<figcaption>{value}{caption}{reasons}"
        f'<small class="name">{breakable(pair_name(row))}</small></figcaption></figure>'
    )


def _img(data: str, alt: str) -> str:
    return f'<img loading="lazy" alt="{escape(alt)}" src="{data}">' if data else ""


def _notes(notes: Sequence[str]) -> str:
    items = "".join(f"<li>{breakable(note)}</li>" for note in notes[:50])
    more = f"<p>and {len(notes) - 50} more in summary.json</p>" if len(notes) > 50 else ""
    return f"<section><h2>Notes</h2><ul>{items}</ul>{more}</section>" if notes else ""


def _thumbnails(
    galleries: Sequence[Sequence[Row]], plan: Plan, measured: Measured, work: CurateWork
) -> dict[int, str]:
    """Small photos of the rows of all galleries, and of what is kept in their place, by row; read from their parts."""
    wanted = {row["row"] for rows in galleries for row in rows}
    wanted |= {r["row"] for rows in galleries for row in rows for r in row["reasons"] if r["row"] is not None}
    by_part: dict[int, dict[int, int]] = {}
    for row in wanted:
        index, inside = measured.place(row)
        number = int(measured.parts[index].stem.removeprefix("part-"))
        by_part.setdefault(number, {})[inside] = row
    fetched = [n for n in sorted(by_part, key=lambda n: -len(by_part[n])) if plan.part(n).source.remote]
    for number in fetched[FETCHED:]:
        del by_part[number]
    found: dict[int, str] = {}
    reader = work.reader()
    for number, rows in sorted(by_part.items()):
        at = 0
        with suppress(ClipletError):  # a source that is gone by now has no photos to show
            for pairs in reader.pairs(plan.part(number)):
                for inside, row in rows.items():
                    if at <= inside < at + len(pairs):
                        photo = pairs[inside - at].photo
                        found[row] = "" if photo is None else thumbnail(photo, SIDE)
                at += len(pairs)
    return found
