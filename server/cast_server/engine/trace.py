"""What became of each step's drafts, for requests that ask to see it.

Nothing here is computed for a request that does not ask, and what is told changes no token.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from cast_drafters.tree import PREDICTED
from cast_drafters.tree import SOURCES as ALL_SOURCES
from cast_server.errors import RequestError

if TYPE_CHECKING:  # outputs hold traces, and walks know requests
    from cast_drafters.base import Drafter
    from cast_server.engine.request import Request, RequestOutput
    from cast_server.engine.verifier import Walk

MAX_NODES: Final = 256  # of a step that are told, the likeliest and the accepted ones

# What the numbers in `DraftTree.sources_T` stand for, by drafter; whichever it is, `PREDICTED` is
# the text that a client expects.
SOURCES: Final[Mapping[str, tuple[str, ...]]] = {
    "eagle": ("head", "text", "store"),
    "ngram": ("text",),
    "draft-model": ("model",),
}


@dataclass(frozen=True, slots=True)
class StepTrace:
    """One step of one sequence that committed tokens: what was drafted and what became of it.

    Node i holds token `node_ids[i]` behind node `parents[i]`, an earlier one; -1 is the last
    committed token. `probabilities` estimate that the whole path to a node is accepted; `sources`
    name where it came from, None where that is not known. `num_left_out` nodes are not told.
    `accepted` is the path taken, and `token_ids` what was committed: the path's tokens, then the
    target's own (bonus) token, cut short by a stop. `ends_prompt`: the step computed the prompt's
    last token, and so is no decoding step.
    `predicted_seconds` and `seconds` are the whole step's, which `num_sequences` shared;
    `since_arrival` is its end, in seconds since the request was made.
    """

    node_ids: tuple[int, ...]
    parents: tuple[int, ...]
    probabilities: tuple[float, ...]
    sources: tuple[str | None, ...]
    num_left_out: int
    accepted: tuple[int, ...]
    token_ids: tuple[int, ...]
    ends_prompt: bool
    num_sequences: int
    predicted_seconds: float
    seconds: float
    since_arrival: float


@dataclass(frozen=True, slots=True)
class StepFacts:
    """What all sequences of a step share. Seconds: what was predicted, what it took."""

    drafter: str
    num_sequences: int
    predicted_seconds: float
    seconds: float


def with_traces(
    outputs: Seq[RequestOutput], walks: Seq[Walk], facts: StepFacts
) -> list[RequestOutput]:
    """The outputs, one for each walk in order, with a trace where the request asked for one."""
    return [
        replace(output, steps=(trace_of(walk, output, facts),))
        if walk.sequence.request.speculation.trace
        else output
        for output, walk in zip(outputs, walks, strict=True)
    ]


def trace_of(walk: Walk, output: RequestOutput, facts: StepFacts) -> StepTrace:
    """What `walk` found, once its tokens are committed."""
    tree = walk.tree
    log_probs = tree.log_probs_T.tolist()
    kept = _kept(log_probs, walk.accepted)
    place_of = {-1: -1} | {node: place for place, node in enumerate(kept)}
    token_ids, parents = tree.token_ids_T.tolist(), tree.parents_T.tolist()
    numbers = [-1] * len(tree) if tree.sources_T is None else tree.sources_T.tolist()
    names = SOURCES.get(facts.drafter, ())
    return StepTrace(
        node_ids=tuple(token_ids[node] for node in kept),
        parents=tuple(place_of[parents[node]] for node in kept),
        probabilities=tuple(math.exp(log_probs[node]) for node in kept),
        sources=tuple(_name(names, numbers[node]) for node in kept),
        num_left_out=len(tree) - len(kept),
        accepted=tuple(place_of[node] for node in walk.accepted),
        token_ids=output.new_token_ids,
        ends_prompt=output.num_output_tokens == len(output.new_token_ids),
        num_sequences=facts.num_sequences,
        predicted_seconds=facts.predicted_seconds,
        seconds=facts.seconds,
        since_arrival=time.monotonic() - walk.sequence.request.arrival_time,
    )


def check_traceable(request: Request, drafter: Drafter) -> None:
    """Raises `RequestError` if a trace would show one client what others were answered."""
    learns = getattr(drafter, "traffic", None) is not None
    if request.speculation.trace and learns and not request.owner:
        raise RequestError(
            "speculation.trace must be false here, got True: with --learn-from-traffic drafts "
            "would show what other clients were answered.",
            "speculation.trace",
        )


def _kept(log_probs: list[float], accepted: Seq[int]) -> list[int]:
    """The accepted path and the likeliest nodes beside it, rising. Parents are never less likely
    than their children, so no node is without its parent."""
    ranking = sorted(range(len(log_probs)), key=lambda node: (-log_probs[node], node))
    return sorted({*accepted, *ranking[: max(0, MAX_NODES - len(accepted))]})


def _name(names: tuple[str, ...], number: int) -> str | None:
    if number == PREDICTED:
        return ALL_SOURCES[PREDICTED]
    return names[number] if 0 <= number < len(names) else None
