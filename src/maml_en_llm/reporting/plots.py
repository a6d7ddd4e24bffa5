"""Small charts as inline SVG. Colours come from the page (`.c0` to `.c5`, `.axis`), so that they follow its theme;
series differ in dashes and marks too, and text is real text."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

WIDTH, HEIGHT = 360, 224
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 12, 38
DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 3", "10 4")
MOST_POINTS = 60
FEW_POINTS = 8  # are marked
MOST_BEHIND = 200  # points behind a smoothed line

# Equally spaced colours of cividis (Nunez, Anderton and Renslow 2018), a ramp for all kinds of colour vision.
CIVIDIS = ("00224e", "123570", "3b496c", "575d6d", "707173", "8a8678", "a59c74", "c3b369", "e1cc55", "fee838")


@dataclass(frozen=True)
class Series:
    name: str
    points: Sequence[tuple[float, float]]
    style: int | None = None
    """Number of its colour and dashes, to be the same in several charts; by default its place in the chart."""


def cividis(share: float) -> tuple[int, int, int]:
    """Red, green and blue from 0 to 255 for a share from 0 to 1."""
    place = min(max(share, 0.0), 1.0) * (len(CIVIDIS) - 1)
    index = min(int(place), len(CIVIDIS) - 2)
    one, other = ([int(colour[i : i + 2], 16) for i in (0, 2, 4)] for colour in (CIVIDIS[index], CIVIDIS[index + 1]))
    red, green, blue = (round(a + (b - a) * (place - index)) for a, b in zip(one, other, strict=True))
    return red, green, blue


def luminance(colour: tuple[int, int, int]) -> float:
    """Relative luminance (WCAG 2.2) of red, green and blue."""
    parts = [c / 255 for c in colour]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def heat(share: float) -> str:
    """CSS of a cell: its colour, and black or white text, whichever stands out more."""
    colour = cividis(share)
    text = "#fff" if 1.05 / (luminance(colour) + 0.05) > (luminance(colour) + 0.05) / 0.05 else "#000"
    return f"background:#{colour[0]:02x}{colour[1]:02x}{colour[2]:02x};color:{text}"


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers that span low to high."""
    if high <= low:
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / max(most - 1, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def thinned(points: Sequence[tuple[float, float]], most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """The finite points; if they are more than `most`, means of as many equal stretches."""
    finite = [point for point in points if all(map(math.isfinite, point))]
    if len(finite) <= most:
        return finite
    bounds = [len(finite) * i // most for i in range(most + 1)]
    stretches = [finite[a:b] for a, b in itertools.pairwise(bounds)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in stretches]


def smoothed(points: Sequence[tuple[float, float]], window: int = 9) -> list[tuple[float, float]]:
    """Finite points, each as the mean of those around it, of as many on the left as on the right."""
    finite = [point for point in points if all(map(math.isfinite, point))]
    found = []
    for i, (x, _) in enumerate(finite):
        half = min(window // 2, i, len(finite) - 1 - i)
        part = [y for _, y in finite[i - half : i + half + 1]]
        found.append((x, sum(part) / len(part)))
    return found


def _number(value: float) -> str:
    return f"{value:,.10g}"


def _frame(
    xs: Sequence[float], ys: Sequence[float], x_label: str, log: bool = False
) -> tuple[list[float], list[float], str]:
    """Ticks of both axes, and the axes as SVG; log: ys are powers of ten, and whole ones are ticks."""
    x_ticks, y_ticks = ticks(min(xs), max(xs), most=6), ticks(min(ys), max(ys))
    if log:
        y_ticks = [
            float(power) for power in range(math.floor(min(ys)), max(math.ceil(max(ys)), math.floor(min(ys)) + 1) + 1)
        ]
    parts = []
    for value in y_ticks:
        text = _number(10**value if log else value)
        y = _place(value, y_ticks, HEIGHT - BOTTOM, TOP)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="axis" x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{text}</text>')
    for value in x_ticks:
        x = _place(value, x_ticks, LEFT, WIDTH - RIGHT)
        anchor = "end" if value == x_ticks[-1] else "middle"
        x_text = x + 4 if anchor == "end" else x
        parts.append(
            f'<text class="axis" x="{x_text}" y="{HEIGHT - BOTTOM + 16}" text-anchor="{anchor}">{_number(value)}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="axis" x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>')
    return x_ticks, y_ticks, "".join(parts)


def _place(value: float, scale: Sequence[float], start: float, end: float) -> float:
    return round(start + (value - scale[0]) / (scale[-1] - scale[0]) * (end - start), 1)


def _mark(index: int, x: float, y: float) -> str:
    """A circle, square, diamond or triangle."""
    shapes = (
        f"M{x - 4} {y}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0",
        f"M{x - 3.5} {y - 3.5}h7v7h-7z",
        f"M{x} {y - 5}l5 5l-5 5l-5 -5z",
        f"M{x} {y - 5}l5 9h-10z",
    )
    return f'<path class="mark c{index % 6}" d="{shapes[index % 4]}"/>'


def line_chart(
    series: Sequence[Series],
    title: str,
    x_label: str,
    y_label: str,
    marks: bool = False,
    log: bool = False,
    smooth: bool = False,
) -> Markup:
    """A chart of lines with its legend; empty when no point is finite. log: of a positive y, on a logarithmic scale;
    smooth: lines are running means, with the points behind them."""
    drawn = []  # number of the style, name, line, points behind it
    for index, s in enumerate(series):
        points = [(x, math.log10(y) if log else y) for x, y in s.points if not log or y > 0]
        if line := thinned(smoothed(points) if smooth else points):
            behind = [point for point in points if all(map(math.isfinite, point))] if smooth else []
            few = behind[:: 1 + len(behind) // MOST_BEHIND]
            drawn.append((index if s.style is None else s.style, s.name, line, few))
    if not drawn:
        return Markup("")
    everything = [point for *_, line, behind in drawn for point in (*line, *behind)]
    x_ticks, y_ticks, frame = _frame([x for x, _ in everything], [y for _, y in everything], x_label, log)

    def places(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(_place(x, x_ticks, LEFT, WIDTH - RIGHT), _place(y, y_ticks, HEIGHT - BOTTOM, TOP)) for x, y in points]

    dots, lines, legend = [], [], []
    for index, name, line, behind in drawn:
        colour, at = f"c{index % 6}", places(line)
        dash = f' stroke-dasharray="{DASHES[index % 6]}"' if DASHES[index % 6] else ""
        dots += [f'<circle class="behind {colour}" cx="{x}" cy="{y}" r="1.2"/>' for x, y in places(behind)]
        path = " ".join(f"{x},{y}" for x, y in at)
        lines.append(f'<polyline class="line {colour}"{dash} points="{path}"/>')
        lines += [_mark(index, x, y) for x, y in at] if marks or len(at) <= FEW_POINTS else []
        sample = f'<path class="line {colour}"{dash} d="M0 5H28"/>'
        legend.append(
            f'<span><svg class="key" viewBox="0 0 28 10" aria-hidden="true">{sample}</svg>{escape(name)}</span>'
        )
    return _figure(title, y_label, frame + "".join((*dots, *lines)), legend)


def scatter(
    points: Sequence[tuple[str, float, float]], title: str, x_label: str, y_label: str, floor: float = 0.0
) -> Markup:
    """points: name, x, y. Each has a mark of its own, and its name in the legend; axes begin at 0 and at `floor`."""
    ys = [floor, *(y for _, _, y in points)]
    x_ticks, y_ticks, frame = _frame([0.0, *(x for _, x, _ in points)], ys, x_label)
    marks, legend = [], []
    for index, (name, x, y) in enumerate(points):
        marks.append(_mark(index, _place(x, x_ticks, LEFT, WIDTH - RIGHT), _place(y, y_ticks, HEIGHT - BOTTOM, TOP)))
        sample = f'<svg class="key dot" viewBox="0 0 12 12" aria-hidden="true">{_mark(index, 6, 6)}</svg>'
        legend.append(f"<span>{sample}{escape(name)}</span>")
    return _figure(title, y_label, frame + "".join(marks), legend)


def _figure(title: str, y_label: str, content: str, legend: Sequence[str]) -> Markup:
    return Markup(
        f'<figure class="chart"><figcaption>{escape(title)}<small>{escape(y_label)}</small></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(f"{title}: {y_label}")}">{content}</svg>'
        f'<p class="legend">{" ".join(legend)}</p></figure>'
    )


def interval(low: float, middle: float, high: float, scale: Sequence[float]) -> Markup:
    """A difference with its interval, beside a line at zero; scale: ticks that span all rows of a table."""
    a, b, c, zero = (_place(value, scale, 4, 156) for value in (low, middle, high, 0.0))
    return _inline(
        f'<line class="zero" x1="{zero}" x2="{zero}" y1="0" y2="20"/>'
        f'<path class="line c0" d="M{a} 10H{c}M{a} 6v8M{c} 6v8"/>{_mark(0, b, 10)}'
    )


def dots(rows: Sequence[Any], scale: Sequence[float], guess: float | None) -> Markup:
    """A line for each row with its label, a dot with an interval, and the number; below them the scale."""

    def share(value: float) -> float:
        return round(100 * (value - scale[0]) / (scale[-1] - scale[0]), 2)

    level = "" if guess is None else f'<i class="guess" style="left:{share(guess)}%"></i>'
    lines = []
    for row in rows:
        low, middle, high = map(share, (row.low, row.average, row.high))
        bar = f'<i class="bar" style="left:{low}%;width:{round(high - low, 2)}%"></i>'
        track = f'<span class="track {row.kind}">{level}{bar}<i class="point" style="left:{middle}%"></i></span>'
        figures = f"{row.average:.1f} <small>{row.low:.1f} to {row.high:.1f}</small>"
        lines.append(f'<tr><th scope="row">{escape(row.label)}</th><td>{track}</td><td class="n">{figures}</td></tr>')
    marks = "".join(f'<span style="left:{share(tick)}%">{_number(tick)}</span>' for tick in scale)
    foot = f'<tfoot aria-hidden="true"><tr><td></td><td><span class="ticks">{marks}</span></td><td></td></tr></tfoot>'
    return Markup(f'<table class="dots"><tbody>{"".join(lines)}</tbody>{foot}</table>')


def strip(values: Sequence[float], scale: Sequence[float]) -> Markup:
    """One dot per value on a common scale."""
    dots = "".join(f'<circle class="dot c0" cx="{_place(v, scale, 6, 154)}" cy="10" r="4"/>' for v in values)
    return _inline(f'<line class="zero" x1="0" x2="160" y1="10" y2="10"/>{dots}')


def _inline(content: str) -> Markup:
    return Markup(f'<svg class="interval" viewBox="0 0 160 20" aria-hidden="true">{content}</svg>')
