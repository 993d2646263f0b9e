"""Prompts with named gaps, such as {answer}: which gaps one has, and how they are filled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from string import Formatter

_OPTIONAL = frozenset({"topic"})


@dataclass(frozen=True, slots=True)
class Prompts:
    """Of one task. generate: for the text; generate2: for another one like it (dual tasks);
    verify: what is asked about a text, in a run of its own."""

    generate: str
    verify: str
    generate2: str | None = None


def gaps(template: str) -> frozenset[str]:
    """Names in braces; doubled braces are plain ones. ValueError for anything but plain names."""
    names = set()
    for _, name, spec, conversion in Formatter().parse(template):
        if name is None:
            continue
        if not name.isidentifier() or spec or conversion:
            raise ValueError(f"{{{name}}} is no plain name in braces")
        names.add(name)
    return frozenset(names)


def fill(template: str, values: Mapping[str, str]) -> str:
    """Braces inside of values stay as they are."""
    return template.format_map(values)


def check(where: str, template: str, default: str | None) -> None:
    """Whether it can stand in for the default: the same gaps. ValueError with a sentence if not."""
    if default is None:
        raise ValueError(f"`{where}` cannot be set: the task has no such prompt.")
    try:
        found, needed = gaps(template), gaps(default)
    except ValueError as error:
        raise ValueError(f"`{where}` cannot be read: {error}; write {{{{ for a brace.") from None
    if missing := sorted(needed - found - _OPTIONAL):
        raise ValueError(f"`{where}` must contain {_braced(missing)}; {template!r} does not.")
    if unknown := sorted(found - needed):
        allowed = _braced(sorted(needed))
        raise ValueError(f"`{where}` has {_braced(unknown)}, but can only be given {allowed}.")


def _braced(names: list[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in names)
