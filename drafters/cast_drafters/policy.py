"""How far to draft, by name: "off", "chain:4", "tree:16", "cast" … A policy is a kind and a size.

What a kind does is in `builders`: one file each, and one line in the table here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import Final, cast

from cast_drafters.builders.base import Builder

MAX_POLICY_SIZE: Final = 1024


@dataclass(frozen=True, slots=True)
class PolicyKind:
    """`builder` is "module:Class". `default_size` counts draft tokens; 0: it never drafts."""

    builder: str
    default_size: int


POLICIES: Final[Mapping[str, PolicyKind]] = MappingProxyType(
    {
        "off": PolicyKind("fixed:OffBuilder", 0),
        "chain": PolicyKind("fixed:ChainBuilder", 4),
        "tree": PolicyKind("fixed:TreeBuilder", 8),
        "eagle2": PolicyKind("fixed:Eagle2Builder", 59),
        "chain-cost": PolicyKind("chain_cost:ChainCostBuilder", 6),
        "cast-paper": PolicyKind("cast_paper:CastPaperBuilder", 60),
        "cast": PolicyKind("cast:CastBuilder", 32),
    }
)


@dataclass(frozen=True, slots=True)
class Policy:
    """At most `size` draft tokens a step; `levels` passes of the drafter, 0: the kind's choice."""

    kind: str
    size: int = 0
    levels: int = 0

    @property
    def name(self) -> str:
        """What `parse_policy` reads."""
        if not self.size:
            return self.kind
        return f"{self.kind}:{self.size}" + (f"x{self.levels}" if self.levels else "")


OFF: Final = Policy("off")


def parse_policy(text: str, max_draft_tokens: int | None = None) -> Policy:
    """Reads "off", "tree", "tree:16", "tree:16x2" …: at most 16 draft tokens, from 2 levels.

    `max_draft_tokens` caps that count; 0 switches drafting off. Raises `ValueError` with a sentence
    that names the offending value and what is possible.
    """
    if max_draft_tokens is not None and max_draft_tokens < 0:
        raise ValueError(f"max_draft_tokens must be 0 or more, got {max_draft_tokens}.")
    name, colon, numbers = text.partition(":")
    size, cross, levels = numbers.partition("x")
    kind = POLICIES.get(name)
    is_sized = kind is not None and kind.default_size > 0
    if (
        kind is None
        or (colon and not (is_sized and _is_number(size)))
        or (cross and not _is_number(levels))
    ):
        raise ValueError(f"Draft policy {text!r} is not possible; choose {_choices()}.")
    count = int(size) if colon else kind.default_size
    if max_draft_tokens is not None:
        count = min(count, max_draft_tokens)
    return Policy(name, count, int(levels) if cross else 0) if count else OFF


def make_builder(kind: str) -> Builder:
    """A new builder for the policies of a kind; it serves all their sequences together."""
    module, _, class_name = POLICIES[kind].builder.partition(":")
    return cast(Builder, getattr(import_module(f"cast_drafters.builders.{module}"), class_name)())


def _is_number(text: str) -> bool:
    plain = text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_POLICY_SIZE))
    return plain and 1 <= int(text) <= MAX_POLICY_SIZE


def _choices() -> str:
    sized = ", ".join(name for name, kind in POLICIES.items() if kind.default_size)
    return (
        f"{', '.join(POLICIES)}, or a size too, as in tree:N or tree:NxL with N from 1 to "
        f"{MAX_POLICY_SIZE} draft tokens and L levels ({sized})"
    )
