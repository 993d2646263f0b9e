"""How far to draft: what to ask of a drafter, and which of its candidates to verify."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol

from cast_drafters.base import DraftLimits
from cast_drafters.tree import EMPTY_TREE, DraftTree

MAX_POLICY_SIZE: Final = 1024


class DraftPolicy(Protocol):
    """Decides once per sequence and step. `name` is what `parse_policy` reads."""

    @property
    def name(self) -> str: ...

    def limits(self, max_nodes: int) -> DraftLimits:
        """What to draft when the engine can afford `max_nodes` rows; 0 nodes: do not draft."""
        ...

    def build(self, candidates: DraftTree, max_nodes: int) -> DraftTree:
        """The part of `candidates` to verify, at most `max_nodes` nodes."""
        ...


@dataclass(frozen=True, slots=True)
class OffPolicy:
    """Plain decoding."""

    @property
    def name(self) -> str:
        return "off"

    def limits(self, max_nodes: int) -> DraftLimits:  # noqa: ARG002
        return DraftLimits(max_nodes=0, max_depth=0, max_width=0)

    def build(self, candidates: DraftTree, max_nodes: int) -> DraftTree:  # noqa: ARG002
        return EMPTY_TREE


@dataclass(frozen=True, slots=True)
class ChainPolicy:
    """The single most likely continuation, `length` tokens long."""

    length: int

    @property
    def name(self) -> str:
        return f"chain:{self.length}"

    def limits(self, max_nodes: int) -> DraftLimits:
        length = _affordable(self.length, max_nodes)
        return DraftLimits(max_nodes=length, max_depth=length, max_width=min(length, 1))

    def build(self, candidates: DraftTree, max_nodes: int) -> DraftTree:
        return candidates.as_chain(_affordable(self.length, max_nodes))


@dataclass(frozen=True, slots=True)
class TreePolicy:
    """The `budget` most likely nodes, whatever shape they make."""

    budget: int
    max_depth: int = 8
    max_width: int = 4

    @property
    def name(self) -> str:
        return f"tree:{self.budget}"

    def limits(self, max_nodes: int) -> DraftLimits:
        nodes = _affordable(self.budget, max_nodes)
        return DraftLimits(nodes, min(nodes, self.max_depth), min(nodes, self.max_width))

    def build(self, candidates: DraftTree, max_nodes: int) -> DraftTree:
        return candidates.best(_affordable(self.budget, max_nodes))


@dataclass(frozen=True, slots=True)
class PolicyKind:
    """One kind of policy. `default_size` 0: it takes no number and never drafts."""

    make: Callable[[int], DraftPolicy]
    default_size: int


POLICIES: Final[Mapping[str, PolicyKind]] = MappingProxyType(
    {
        "off": PolicyKind(lambda _: OffPolicy(), default_size=0),
        "chain": PolicyKind(ChainPolicy, default_size=4),
        "tree": PolicyKind(TreePolicy, default_size=8),
    }
)


def parse_policy(text: str, max_draft_tokens: int | None = None) -> DraftPolicy:
    """Reads "off", "chain", "chain:4", "tree", "tree:16" …; the number is a count of draft tokens.

    `max_draft_tokens` caps that count; 0 switches drafting off. Raises `ValueError` with a sentence
    that names the offending value and what is possible.
    """
    if max_draft_tokens is not None and max_draft_tokens < 0:
        raise ValueError(f"max_draft_tokens must be 0 or more, got {max_draft_tokens}.")
    name, colon, number = text.partition(":")
    kind = POLICIES.get(name)
    if kind is None or (colon and not (kind.default_size and _is_size(number))):
        raise ValueError(f"Draft policy {text!r} is not possible; choose {_choices()}.")
    size = int(number) if colon else kind.default_size
    if max_draft_tokens is not None:
        size = min(size, max_draft_tokens)
    return kind.make(size) if size else OffPolicy()


def _is_size(number: str) -> bool:
    plain = number.isascii() and number.isdecimal() and len(number) <= len(str(MAX_POLICY_SIZE))
    return plain and 1 <= int(number) <= MAX_POLICY_SIZE


def _choices() -> str:
    sized = [f"{name}:N" for name, kind in POLICIES.items() if kind.default_size]
    return f"{', '.join([*POLICIES, *sized])} with N from 1 to {MAX_POLICY_SIZE}"


def _affordable(size: int, max_nodes: int) -> int:
    return max(0, min(size, max_nodes))
