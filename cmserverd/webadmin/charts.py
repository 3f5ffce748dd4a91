"""Pictures made on the server, as SVG: how full a license is, and its use over time.

Colours come from the style sheet by class, so that a chart is right in the light and in the dark; there are no style
attributes, which the content security policy forbids. Every text in it is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Final

from markupsafe import Markup
from msgspec import Struct

_WIDTH: Final = 720
_HEIGHT: Final = 200
_LEFT: Final = 44
_BOTTOM: Final = 26
_TOP: Final = 12
_FEW: Final = 0.9
"""From this share on, a license is nearly used up."""

_LABELS: Final = 6
"""How many spans have their name below the axis."""


class Span(Struct, frozen=True, gc=False):
    """A part of the time: the most units used at once, the mean, and how often somebody was denied one.

    Of a span that is not `known`, nothing is drawn.
    """

    name: str
    peak: int = 0
    mean: float = 0.0
    denials: int = 0
    known: bool = True


def bar(used: int, total: int, name: str) -> Markup:
    """Return how full a license is, as a bar; `name` says whose."""
    share = min(used / total, 1.0) if total else 0.0
    level = "full" if total and used >= total else "scarce" if share >= _FEW else "fine"
    return Markup(
        '<svg class="bar {level}" viewBox="0 0 100 10" preserveAspectRatio="none" role="img" aria-label="{label}">'
        '<rect class="track" width="100" height="10" rx="2"/>'
        '<rect class="fill" width="{width:.1f}" height="10" rx="2"/></svg>'
    ).format(level=level, label=f"{name}: {used} of {total} in use", width=100 * share)


def history(spans: Sequence[Span], name: str) -> Markup:
    """Return the use of a license over time: a bar for each peak, a line for the mean, a mark for denials."""
    if not spans:
        return Markup("")
    top = _round_up(max(max(span.peak for span in spans), 1))
    step = (_WIDTH - _LEFT) / len(spans)
    body = _HEIGHT - _TOP - _BOTTOM

    def height(value: float) -> float:
        return _TOP + body * (1 - value / top)

    parts = [_grid(top, height), *_names(spans, step)]
    means: list[str] = []
    for at, span in enumerate(spans):
        left = _LEFT + at * step
        if not span.known:
            continue
        middle = left + step / 2
        means.append(f"M{left:.1f} {height(span.mean):.1f}h{step:.2f}")
        parts.append(
            Markup(
                '<g><title>{title}</title><rect class="hit" x="{left:.1f}" y="{top}" width="{step:.2f}" '
                'height="{body}"/><rect class="peak" x="{x:.1f}" y="{y:.1f}" width="{width:.2f}" '
                'height="{tall:.1f}"/>{denied}</g>'
            ).format(
                title=_title(span),
                left=left,
                top=_TOP,
                step=step,
                body=body,
                x=left + step * 0.1,
                y=height(span.peak),
                width=step * 0.8,
                tall=_TOP + body - height(span.peak),
                denied=_denied(middle) if span.denials else "",
            )
        )
    parts.append(Markup('<path class="mean" d="{}"/>').format("".join(means)))
    label = f"{name}: peak and mean use, and denials; the table has the figures"
    return Markup('<svg class="history" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        _WIDTH, _HEIGHT, label, Markup("").join(parts)
    )


def _denied(middle: float) -> Markup:
    return Markup('<path class="denial" d="M{:.1f} {} l5 -8 h-10 z"/>').format(middle, _TOP - 2)


def _title(span: Span) -> str:
    return f"{span.name}: peak {span.peak}, mean {span.mean:.2f}, denials {span.denials}"


def _grid(top: int, height: object) -> Markup:
    assert callable(height)
    parts = []
    for value in dict.fromkeys((0, ceil(top / 2), top)):
        y = height(value)
        parts.append(
            Markup(
                '<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>'
                '<text class="axis" x="{}" y="{:.1f}" text-anchor="end">{}</text>'
            ).format(_LEFT, _WIDTH, y, y, _LEFT - 6, y + 4, value)
        )
    return Markup("").join(parts)


def _names(spans: Sequence[Span], step: float) -> list[Markup]:
    """Return the names of some of the spans, evenly spread."""
    every = max(ceil(len(spans) / _LABELS), 1)
    return [
        Markup('<text class="axis" x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
            _LEFT + (at + 0.5) * step, _HEIGHT - 8, spans[at].name
        )
        for at in range(every // 2, len(spans), every)
    ]


def _round_up(value: int) -> int:
    """Return a number that is good for the top of an axis."""
    magnitude = 1
    while magnitude * 10 <= value:
        magnitude *= 10
    return next(step * magnitude for step in (1, 2, 4, 5, 6, 8, 10) if step * magnitude >= value)
