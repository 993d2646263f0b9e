"""Shares of many things, each with its interval: a row a thing, a colour a kind of share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from cast_server.profiling.plot import COLOURS

_WIDTH, _LEFT, _RIGHT, _TOP = 880, 190, 170, 24
_STEP: Final = 7  # pixels between the kinds of a row
_GAP: Final = 14  # and between rows


@dataclass(frozen=True, slots=True)
class Share:
    """From 0 to 1, between `low` and `high`."""

    value: float
    low: float
    high: float


def dots(rows: Mapping[str, Mapping[str, Share | None]], title: str) -> str:
    """The <svg> element. rows: by their names, the shares by kind; None where there is none."""
    kinds = list(dict.fromkeys(kind for shares in rows.values() for kind in shares))
    height = _STEP * len(kinds) + _GAP
    bottom = _TOP + height * len(rows)
    body = [*_grid(bottom), *_legend(kinds)]
    for number, (name, shares) in enumerate(rows.items()):
        top = _TOP + number * height
        body += _row(name, [shares.get(kind) for kind in kinds], top, height)
    view = f'viewBox="0 0 {_WIDTH} {bottom + 24}"'
    return f'<svg {view} role="img" aria-label="{escape(title, quote=True)}">{"".join(body)}</svg>'


def _x(share: float) -> float:
    return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)


def _grid(bottom: float) -> Iterator[str]:
    for tenth in range(0, 11, 2):
        x = _x(tenth / 10)
        yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}"/>'
        yield f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{tenth / 10:g}</text>'


def _legend(kinds: Sequence[str]) -> Iterator[str]:
    for number, (kind, colour) in enumerate(zip(kinds, COLOURS, strict=False)):
        y = _TOP + 16 * number + 8
        yield f'<circle cx="{_WIDTH - _RIGHT + 24}" cy="{y - 4}" r="4" fill="{colour}"/>'
        yield f'<text x="{_WIDTH - _RIGHT + 34}" y="{y}">{escape(kind)}</text>'


def _row(name: str, shares: Sequence[Share | None], top: float, height: float) -> Iterator[str]:
    yield f'<text x="{_LEFT - 12}" y="{top + height / 2}" text-anchor="end">{escape(name)}</text>'
    for number, (share, colour) in enumerate(zip(shares, COLOURS, strict=False)):
        if share is None:
            continue
        y = top + _GAP / 2 + _STEP * number
        ends = f'x1="{_x(share.low):.1f}" x2="{_x(share.high):.1f}" y1="{y}" y2="{y}"'
        yield f'<line {ends} stroke="{colour}" stroke-width="1.5"/>'
        yield f'<circle cx="{_x(share.value):.1f}" cy="{y}" r="3.5" fill="{colour}"/>'
