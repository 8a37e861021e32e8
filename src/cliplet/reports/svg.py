"""Plots as inline SVG, made by hand so that reports need no plotting library.

Every function returns a string to put into a page. Text and lines take the page's colour, so plots read in a light
and in a dark page alike; series use a palette that colour-blind readers can tell apart.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from cliplet.reports.page import escape

PALETTE = ("#3b6fb6", "#d1742f", "#2f8f6b", "#a34a8f", "#8a6d1f", "#5b5fc7", "#b23a48", "#5a7684")
WIDTH = 720


@dataclass(frozen=True)
class Bar:
    """One bar with its interval."""

    label: str
    """Printed to its left."""
    value: float
    """Its length, in the chart's unit."""
    low: float = math.nan
    """Lower end of the interval; NaN for none."""
    high: float = math.nan
    """Upper end of the interval."""
    mark: float = math.nan
    """Another value to mark on the same line (a published one); NaN for none."""
    colour: int = 0
    """Number of the colour in the palette."""


def nice_ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round numbers that cover ``low`` to ``high``, some ``about`` of them."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low if math.isfinite(low) else 0.0]
    raw = (high - low) / max(about - 1, 1)
    step = 10.0 ** math.floor(math.log10(raw))
    step *= next((m for m in (1, 2, 2.5, 5, 10) if step * m >= raw * 0.999), 10)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def number(value: float, digits: int = 1) -> str:
    """A number for people: fixed digits, a true minus, a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:.{digits}f}".replace("-", "−")


def _tick(value: float) -> str:
    return f"{value:g}".replace("-", "−")


def _svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    size = f'viewBox="0 0 {width:g} {height:g}" width="{width:g}"'
    font = 'font-family="system-ui, sans-serif" font-size="13"'
    start = f'<svg role="img" {font} aria-label="{escape(title)}" {size} xmlns="http://www.w3.org/2000/svg">'
    return f"{start}<title>{escape(title)}</title>{''.join(parts)}</svg>"


def _line(x1: float, y1: float, x2: float, y2: float, style: str = "") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="currentColor" {style}/>'


def _label(x: float, y: float, value: object, anchor: str = "start", style: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="currentColor" {style}>{escape(value)}</text>'


_SMALL = 'font-size="12" fill-opacity="0.7"'
_BOLD = 'font-weight="600"'
_FAINT = 'stroke-opacity="0.15"'


def bar_chart(
    bars: Sequence[Bar], title: str, unit: str = "", mark_name: str = "published", digits: int = 1
) -> str:
    """Horizontal bars with interval whiskers, in the order given, values at the right; ``mark`` is a diamond."""
    if not bars:
        return ""
    ends = [v for b in bars for v in (b.value, b.low, b.high, b.mark, 0.0) if math.isfinite(v)]
    low, high = min(ends), max(ends)
    high = high if high > low else low + 1.0
    left, right, row, top = 190.0, 70.0, 24.0, 12.0
    height = top + row * len(bars) + 44
    scale = (WIDTH - left - right) / (high - low)

    def at(value: float) -> float:
        return left + (value - low) * scale

    parts = []
    for tick in nice_ticks(low, high):
        parts.append(_line(at(tick), top, at(tick), height - 40, _FAINT))
        parts.append(_label(at(tick), height - 26, _tick(tick), "middle", _SMALL))
    for i, bar in enumerate(bars):
        y = top + row * i + row / 2
        parts.append(_label(left - 8, y + 4, bar.label, "end"))
        if math.isfinite(bar.value):
            colour = PALETTE[bar.colour % len(PALETTE)]
            x, width = min(at(0.0), at(bar.value)), abs(bar.value) * scale
            parts.append(
                f'<rect x="{x:.1f}" y="{y - 7:.1f}" width="{width:.1f}" height="14" rx="2" fill="{colour}"/>'
            )
        if math.isfinite(bar.low) and math.isfinite(bar.high):
            parts.append(_line(at(bar.low), y, at(bar.high), y, 'stroke-width="1.5"'))
            parts += [_line(at(v), y - 4, at(v), y + 4, 'stroke-width="1.5"') for v in (bar.low, bar.high)]
        if math.isfinite(bar.mark):
            parts.append(_diamond(at(bar.mark), y))
        parts.append(_label(WIDTH - 8, y + 4, number(bar.value, digits), "end", _BOLD))
    caption = unit + (f"   ◇ {mark_name}" if any(math.isfinite(b.mark) for b in bars) else "")
    parts.append(_label(left, height - 8, caption, "start", _SMALL))
    return _svg(WIDTH, height, title, parts)


def _diamond(x: float, y: float) -> str:
    points = f"{x - 5:.1f},{y:.1f} {x:.1f},{y - 6:.1f} {x + 5:.1f},{y:.1f} {x:.1f},{y + 6:.1f}"
    return f'<polygon points="{points}" fill="white" stroke="#222" stroke-width="1.5"/>'


def histogram(groups: Mapping[str, ArrayLike], title: str, x_label: str = "", bins: int = 40) -> str:
    """Distributions below each other on one axis, one row a group, each scaled to its own highest bin.

    A tick marks each group's median. NaN values are left out.
    """
    kept = {name: np.asarray(v, dtype=float) for name, v in groups.items()}
    kept = {name: v[np.isfinite(v)] for name, v in kept.items()}
    kept = {name: v for name, v in kept.items() if len(v)}
    if not kept:
        return ""
    everything = np.concatenate(list(kept.values()))
    low, high = float(everything.min()), float(everything.max())
    if high <= low:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, bins + 1)
    left, right, row, top = 130.0, 60.0, 52.0, 8.0
    height = top + row * len(kept) + 40
    width = WIDTH - left - right

    def at(value: float) -> float:
        return left + (value - low) / (high - low) * width

    parts = []
    for tick in nice_ticks(low, high, 7):
        parts.append(_line(at(tick), top, at(tick), height - 36, _FAINT))
        parts.append(_label(at(tick), height - 22, _tick(tick), "middle", _SMALL))
    for i, (name, values) in enumerate(kept.items()):
        base = top + row * (i + 1) - 6
        counts = np.histogram(values, edges)[0]
        outline = [f"{at(edges[0]):.1f},{base:.1f}"]
        for count, start, stop in zip(counts, edges[:-1], edges[1:], strict=True):
            y = base - count / counts.max() * (row - 12)
            outline += [f"{at(start):.1f},{y:.1f}", f"{at(stop):.1f},{y:.1f}"]
        outline.append(f"{at(edges[-1]):.1f},{base:.1f}")
        colour = PALETTE[i % len(PALETTE)]
        parts.append(f'<polygon points="{" ".join(outline)}" fill="{colour}" fill-opacity="0.75"/>')
        median = float(np.median(values))
        parts.append(_line(at(median), base - row + 12, at(median), base + 3, 'stroke-width="2"'))
        parts.append(_label(left - 8, base - 10, name, "end"))
        parts.append(_label(WIDTH - right + 6, base - 10, f"n={len(values)}", "start", _SMALL))
    parts.append(_label(left + width / 2, height - 5, f"{x_label}  (line: median)", "middle", _SMALL))
    return _svg(WIDTH, height, title, parts)


def line_chart(
    series: Mapping[str, Sequence[tuple[float, float]]],
    title: str,
    x_label: str = "",
    y_label: str = "",
    log_x: bool = False,
    y_range: tuple[float, float] | None = None,
) -> str:
    """Lines through (x, y) points, with a legend; ``log_x`` for a logarithmic x axis (x > 0)."""
    points = [(x, y) for line in series.values() for x, y in line if math.isfinite(y)]
    if not points:
        return ""
    place: Callable[[float], float] = math.log10 if log_x else float
    x_low, x_high = (place(f(p[0] for p in points)) for f in (min, max))
    y_low, y_high = y_range or (min(p[1] for p in points), max(p[1] for p in points))
    x_high, y_high = (hi if hi > lo else lo + 1 for lo, hi in ((x_low, x_high), (y_low, y_high)))
    left, right, top, height = 60.0, 20.0, 12.0, 340.0
    bottom = height - 62

    def at(x: float, y: float) -> tuple[float, float]:
        across = left + (place(x) - x_low) / (x_high - x_low) * (WIDTH - left - right)
        return across, bottom - (y - y_low) / (y_high - y_low) * (bottom - top)

    parts = []
    for tick in nice_ticks(y_low, y_high):
        y = at(points[0][0], tick)[1]
        parts.append(_line(left, y, WIDTH - right, y, _FAINT))
        parts.append(_label(left - 6, y + 4, _tick(tick), "end", _SMALL))
    ticks = (
        [10.0**i for i in range(math.ceil(x_low), math.floor(x_high) + 1)]
        if log_x
        else nice_ticks(x_low, x_high)
    )
    for tick in ticks:
        x = at(tick, y_low)[0]
        parts.append(_line(x, top, x, bottom, _FAINT))
        parts.append(_label(x, bottom + 16, _tick(tick), "middle", _SMALL))
    legend = left
    for i, (name, line) in enumerate(series.items()):
        colour = PALETTE[i % len(PALETTE)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*p) for p in line if math.isfinite(p[1])))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
        parts.append(
            f'<rect x="{legend:.1f}" y="{height - 18:.1f}" width="12" height="12" rx="2" fill="{colour}"/>'
        )
        parts.append(_label(legend + 17, height - 8, name))
        legend += 40 + 7.5 * len(name)
    parts.append(_label((left + WIDTH - right) / 2, bottom + 34, x_label, "middle", _SMALL))
    parts.append(_label(left + 6, top + 12, y_label, "start", _SMALL))
    return _svg(WIDTH, height, title, parts)
