"""What usually follows a few tokens in what this server wrote for one owner: kept in memory only.

Only the target's own output is counted. Prompts are not: they are their senders' writing, which
says little of what the target writes next, and the more private of the two. The last tokens of a
prompt serve as context of the first ones of its answer, no more.

Nothing is ever written to disk. No owner's sequences are drafted for with another owner's counts:
even the time that a right guess saves would tell what someone else was answered.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from types import MappingProxyType
from typing import Final

from cast_drafters.ngram_store import Continuation, NgramStore
from cast_drafters.pool import NOTHING, Prediction
from cast_drafters.sources import Source

_REST: Final = -1  # stands for all successors that are not told apart
# What the server itself has just seen counts for twice as much: requests return.
_SHIPPED_WORTH: Final = 0.5
_BACKOFF: Final = 2.0  # occurrences of a context that the next shorter one's opinion is worth

_Followers = Mapping[int, float]  # token or _REST -> how often it followed
_NEVER: Final[_Followers] = MappingProxyType({})


class TrafficStore:
    """Counts by owner, an opaque string: "" stands for all who have no name.

    Kept are the `max_owners` owners last seen, the `max_contexts_per_owner` contexts last used of
    each (some 0.4 kB a context) and `top` successors of each context. Not for several threads.
    """

    def __init__(
        self,
        max_order: int = 5,
        top: int = 8,
        max_contexts_per_owner: int = 200_000,
        max_owners: int = 64,
    ) -> None:
        if min(max_order, top, max_contexts_per_owner, max_owners) < 1:
            raise ValueError(
                "max_order, top, max_contexts_per_owner and max_owners must be 1 or more, got "
                f"{max_order}, {top}, {max_contexts_per_owner} and {max_owners}."
            )
        self._max_order, self._top = max_order, top
        self._max_contexts, self._max_owners = max_contexts_per_owner, max_owners
        self._owners: OrderedDict[str, _Contexts] = OrderedDict()  # last seen last

    def learn(self, owner: str, prompt_tail: Sequence[int], output_tokens: Sequence[int]) -> None:
        """Counts what followed each context of 1 to `max_order` tokens, within the output."""
        if not output_tokens:  # no reason to make room for the owner
            return
        before = prompt_tail[-self._max_order :]
        text = [*before, *output_tokens]
        contexts = self._contexts_of(owner)
        for position in range(len(before), len(text)):
            window = tuple(text[max(0, position - self._max_order) : position])
            contexts.count(window, text[position])

    def lookup(self, owner: str, tail: Sequence[int]) -> Sequence[_Followers]:
        """What followed the last token, the last two, and so on for as long as anything did."""
        if owner not in self._owners:
            return ()
        return self._contexts_of(owner).lookup(tuple(tail[-self._max_order :]))

    def predict(self, owner: str, tail: Sequence[int], width: int) -> Prediction:
        """The `width` likeliest next tokens."""
        return _interpolate(self.lookup(owner, tail), width)

    def drop(self, owner: str) -> None:
        """Forgets all that an owner's sequences left; those that still run are yet to leave theirs.

        Unknown owners are fine.
        """
        self._owners.pop(owner, None)

    def drop_all(self) -> None:
        self._owners.clear()

    def size(self, owner: str) -> int:
        """The number of contexts kept for an owner."""
        return len(self._owners[owner]) if owner in self._owners else 0

    def _contexts_of(self, owner: str) -> _Contexts:
        if owner not in self._owners:
            self._owners[owner] = _Contexts(self._top, self._max_contexts)
        self._owners.move_to_end(owner)
        if len(self._owners) > self._max_owners:
            self._owners.popitem(last=False)
        return self._owners[owner]


class TrafficSource(Source):
    """The shipped store's counts and those of the owner's own traffic, added up.

    A sequence is learned when it is released, be it finished or aborted, and only if it was ever
    drafted for: one whose policy is off has never told its owner.
    """

    def __init__(self, traffic: TrafficStore, shipped: NgramStore | None = None) -> None:
        self.traffic = traffic
        self._shipped = shipped
        self._lives: dict[str, _Life] = {}

    def begin(self, request_id: str, token_ids: Sequence[int]) -> None:
        self._lives[request_id] = _Life(token_ids, len(token_ids))

    def extend(self, request_id: str, token_ids: Sequence[int]) -> None:
        if request_id not in self._lives:
            self.begin(request_id, token_ids)
        self._lives[request_id].token_ids = token_ids

    def own(self, request_id: str, owner: str) -> None:
        self._lives[request_id].owner = owner

    def release(self, request_id: str) -> None:
        life = self._lives.pop(request_id, None)
        if life is not None and life.owner is not None:
            prompt, output = life.token_ids[: life.num_prompt], life.token_ids[life.num_prompt :]
            self.traffic.learn(life.owner, prompt, output)

    def predict(self, request_id: str, tail: Sequence[int], width: int) -> Prediction:
        life = self._lives.get(request_id)
        owner = life.owner if life is not None else None
        own = self.traffic.lookup(owner, tail) if owner is not None else ()
        shipped = self._shipped.lookup(tail)[::-1] if self._shipped is not None else []
        orders = zip_longest(own, map(_followers, shipped), fillvalue=_NEVER)
        return _interpolate([_sum(one, other) for one, other in orders], width)


@dataclass(slots=True)
class _Life:
    """A sequence under way: its live tokens, the first `num_prompt` of which are no output."""

    token_ids: Sequence[int]
    num_prompt: int
    owner: str | None = None


class _Contexts:
    """One owner's contexts, last used last.

    Whoever uses a context uses its shorter suffixes right after it. So these outlive it, and a
    lookup may end at the first that is missing.
    """

    def __init__(self, top: int, limit: int) -> None:
        self._top, self._limit = top, limit
        self._followers: OrderedDict[tuple[int, ...], dict[int, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._followers)

    def count(self, window: tuple[int, ...], token: int) -> None:
        for context in _suffixes(window):
            followers = self._followers.setdefault(context, {})
            self._followers.move_to_end(context)
            followers[token] = followers.get(token, 0) + 1
            if len(followers) - (_REST in followers) > self._top:
                _forget_rarest(followers, token)
            if len(self._followers) > self._limit:
                self._followers.popitem(last=False)

    def lookup(self, window: tuple[int, ...]) -> list[_Followers]:
        found: list[_Followers] = []
        for length in range(1, len(window) + 1):
            followers = self._followers.get(window[-length:])
            if followers is None:
                break
            found.append(followers)
        for context in _suffixes(window[len(window) - len(found) :]):
            self._followers.move_to_end(context)
        return found


def _forget_rarest(followers: dict[int, float], newest: int) -> None:
    """The oldest among equals; never the newest, or nothing new could ever become frequent."""
    known = (token for token in followers if token not in (_REST, newest))
    rarest = min(known, key=followers.__getitem__)
    followers[_REST] = followers.get(_REST, 0) + followers.pop(rarest)


def _suffixes(window: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Longest first."""
    return (window[start:] for start in range(len(window)))


def _followers(shipped: Continuation) -> _Followers:
    """In units of an occurrence in the owner's traffic."""
    counts = dict(zip(shipped.tokens.tolist(), shipped.counts.tolist(), strict=True))
    counts[_REST] = shipped.total - sum(counts.values())
    return {token: _SHIPPED_WORTH * count for token, count in counts.items()}


def _sum(one: _Followers, other: _Followers) -> _Followers:
    if not one or not other:
        return one or other
    return {token: one.get(token, 0) + other.get(token, 0) for token in one.keys() | other.keys()}


def _interpolate(found: Sequence[_Followers], width: int) -> Prediction:
    """As `NgramStore.predict` does it, from what followed one token on to the longest context."""
    if not found:
        return NOTHING
    probabilities: dict[int, float] = {}
    for followers in found:
        share = 1.0 / (sum(followers.values()) + _BACKOFF)
        for token in probabilities:
            probabilities[token] *= _BACKOFF * share
        for token, count in followers.items():
            if token != _REST:
                probabilities[token] = probabilities.get(token, 0.0) + count * share
    likeliest = sorted(probabilities, key=probabilities.__getitem__, reverse=True)[:width]
    return Prediction(len(found), [(token, probabilities[token]) for token in likeliest])
