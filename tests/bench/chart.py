"""Bars in groups, in panels side by side, as an SVG that any browser shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from math import floor, log10

WIDTH, HEIGHT, TOP, BOTTOM, MARGIN = 300, 220, 60, 40, 14
DIGIT = 5.2  # how wide one of a bar's figure is
COLOURS = ("#b23a48", "#d98e04", "#3a7ca5", "#2f7d4f", "#6d597a")


@dataclass(frozen=True, slots=True)
class Group:
    """Bars that stand together, in the order of the legend."""

    label: str
    values: Sequence[float]


@dataclass(frozen=True, slots=True)
class Panel:
    title: str
    groups: Sequence[Group]


def chart(legend: Sequence[str], panels: Sequence[Panel]) -> str:
    """An SVG document. Each panel has a scale of its own, from 0; every bar bears its figure."""
    whole_width, whole_height = WIDTH * len(panels), TOP + HEIGHT + BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {whole_width} {whole_height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{whole_width}" height="{whole_height}" fill="white"/>',
        *_legend(legend),
    ]
    for number, panel in enumerate(panels):
        parts += [f'<g transform="translate({number * WIDTH} {TOP})">', *_panel(panel), "</g>"]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _legend(legend: Sequence[str]) -> Iterator[str]:
    at = MARGIN
    for label, colour in zip(legend, COLOURS, strict=False):
        yield f'<rect x="{at}" y="10" width="10" height="10" fill="{colour}"/>'
        yield f'<text x="{at + 15}" y="19">{escape(label)}</text>'
        at += 35 + 6 * len(label)


def _panel(panel: Panel) -> Iterator[str]:
    most = max((value for group in panel.groups for value in group.values), default=0) or 1
    slot = (WIDTH - 2 * MARGIN) / max(1, len(panel.groups))
    upright = any(
        len(_short(value)) * DIGIT > slot * 0.86 / len(group.values) for group in panel.groups for value in group.values
    )
    yield f'<text x="{WIDTH / 2}" y="-14" text-anchor="middle" font-weight="bold">{escape(panel.title)}</text>'
    yield f'<line x1="{MARGIN}" y1="{HEIGHT}" x2="{WIDTH - MARGIN}" y2="{HEIGHT}" stroke="#444"/>'
    for number, group in enumerate(panel.groups):
        left = MARGIN + slot * number
        yield f'<text x="{left + slot / 2:.1f}" y="{HEIGHT + 16}" text-anchor="middle">{escape(group.label)}</text>'
        width = slot * 0.86 / max(1, len(group.values))
        for place, (value, colour) in enumerate(zip(group.values, COLOURS, strict=False)):
            x, height = left + slot * 0.07 + width * place, (HEIGHT - 34) * value / most
            top, middle = HEIGHT - height, x + width / 2
            yield f'<rect x="{x:.1f}" y="{top:.1f}" width="{width - 1:.1f}" height="{height:.1f}" fill="{colour}"/>'
            yield _figure(_short(value), middle, top - 3, upright=upright)


def _figure(text: str, x: float, y: float, *, upright: bool) -> str:
    """Above a bar; where one of a panel is wider than its bar, all of them read upwards."""
    if upright:
        return f'<text transform="translate({x + 3:.1f} {y:.1f}) rotate(-90)" font-size="8">{text}</text>'
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle" font-size="8">{text}</text>'


def _short(value: float) -> str:
    """Three digits at most."""
    if not value:
        return "0"
    return f"{value:.{max(0, 1 - floor(log10(value)))}f}" if value < 10 else f"{value:.0f}"
