"""A setting as somebody gave it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Given:
    """`value` is text or a list of texts, a bool of a switch, or None for none.

    `origin` is where it comes from, as in "CASTSERVE_PORT"; `written` is how it stands there, as in
    "CASTSERVE_PORT=80".
    """

    value: str | bool | list[str] | None
    origin: str
    written: str
