"""Records a trace: the target's own answers, and what its drafter would have proposed meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any, Final

from tqdm import tqdm

from cast_bench.simulate.recorder import Reach, Recorder
from cast_bench.simulate.trace import NO_NODES, Nodes, Recorded, Script, Trace
from cast_profiler.cost import CostModel
from cast_profiler.drift import CorrectedCost
from cast_server.engine.core import EngineCore
from cast_server.engine.request import Request, SamplingParams, SpeculationParams
from cast_server.errors import ConfigError

_ASKING: Final = "tree:1"  # a policy that asks the drafter at every step
_LEARNING: Final = "cast"
_SCRATCH: Final = 1024  # rows of a head, of all sequences together

Sets = Mapping[str, Sequence[list[int]]]


def record(
    core: EngineCore,
    sets: Sets,
    num_tokens: int,
    reach: Reach,
    told: Mapping[str, Any],
    batch: int,
    warm_batches: Sequence[int],
    known: Sequence[Script] = (),
) -> Iterator[Trace]:
    """Prompts of all sets through one engine. First with drafts that are verified, so that how far
    they can be trusted, and what the host's work takes, is learnt at those numbers of sequences;
    then once more without, `batch` at a time: yields the trace so far after each batch.

    The first prompts are left out for which there are `known` scripts. `told` is the provenance;
    its `model` names the target. Takes over the engine's drafter.
    """
    if batch * max(reach.widths) * reach.levels > _SCRATCH:
        raise ConfigError(
            f"{batch} sequences by {max(reach.widths)} nodes a level by {reach.levels} levels are "
            f"more than the {_SCRATCH} rows that a head has: record fewer at a time (--batch-size)."
        )
    prompts = [(name, ids) for name, some in sets.items() for ids in some]
    if len(known) >= len(prompts):
        return
    host = _learn(core, [ids for _, ids in prompts], num_tokens, warm_batches)
    recorder = Recorder(core.drafter, reach)
    core.drafter = recorder
    scripts = [*known]
    try:
        while missing := prompts[len(scripts) :][:batch]:
            answers = _answer(core, [ids for _, ids in missing], num_tokens, _ASKING, batch)
            scripts += _scripts(missing, answers, recorder)
            yield Trace(_recorded(recorder, reach, host, told), scripts)
    finally:
        core.drafter = recorder.inner


def _scripts(
    prompts: Sequence[tuple[str, list[int]]], answers: Sequence[list[int]], recorder: Recorder
) -> Iterator[Script]:
    for number, ((name, ids), answer) in enumerate(zip(prompts, answers, strict=True)):
        yield Script(name, len(ids), answer, _judged(recorder.tries[f"{number}"], answer))


def _recorded(
    recorder: Recorder, reach: Reach, host: Mapping[str, list[float]], told: Mapping[str, Any]
) -> Recorded:
    return Recorded(
        str(told["model"]),
        recorder.name,
        reach.widths,
        reach.levels,
        reach.nodes,
        recorder.has_passes,
        recorder.is_batched,
        host,
        told,
    )


def _learn(
    core: EngineCore, prompts: Sequence[list[int]], num_tokens: int, batches: Sequence[int]
) -> dict[str, list[float]]:
    host: dict[str, list[float]] = {"sequences": [], "drafting": [], "rest": []}
    for batch in sorted(set(batches)):
        core.planner.cost = watched = WatchedCost(core.planner.cost.base, batch)
        _answer(core, prompts, num_tokens, _LEARNING, batch)
        host["sequences"].append(batch)
        host["drafting"].append(watched.mean_drafting())
        host["rest"].append(watched.mean_rest())
    return host


class WatchedCost(CorrectedCost):
    """Also keeps what the host's work took in steps of `batch` sequences. What is learnt of it is
    no mean: it makes little of long ones, but they take their time too."""

    def __init__(self, base: CostModel, batch: int) -> None:
        super().__init__(base)
        self._batch = batch
        self._seen_drafting: list[float] = []
        self._seen_rest: list[float] = []

    def saw_host(self, sequences: int, seconds: float) -> None:
        super().saw_host(sequences, seconds)
        if sequences == self._batch:
            self._seen_drafting.append(seconds)

    def saw_rest(self, sequences: int, seconds: float) -> None:
        super().saw_rest(sequences, seconds)
        if sequences == self._batch:
            self._seen_rest.append(seconds)

    def mean_drafting(self) -> float:
        """Seconds; what is believed, if there was no such step."""
        seen = self._seen_drafting
        return fmean(seen) if seen else self.host_seconds(self._batch)

    def mean_rest(self) -> float:
        seen = self._seen_rest
        return fmean(seen) if seen else self.rest_seconds(self._batch)


def _answer(
    core: EngineCore, prompts: Sequence[list[int]], num_tokens: int, policy: str, batch: int
) -> list[list[int]]:
    """Greedy answers, in order of the prompts; at most `batch` at a time."""
    answers: dict[str, list[int]] = {f"{number}": [] for number in range(len(prompts))}
    waiting, running = _requests(prompts, num_tokens, policy), 0
    with tqdm(total=len(prompts), desc=policy, unit="answer", disable=None) as progress:
        while True:
            while running < batch and (request := next(waiting, None)) is not None:
                core.add(request)
                running += 1
            if not running:
                return list(answers.values())
            for one in core.step():
                if one.error is not None:
                    raise one.error
                answers[one.request_id] += one.new_token_ids
                if one.finish_reason is not None:
                    running -= 1
                    progress.update(1)


def _requests(prompts: Sequence[list[int]], num_tokens: int, policy: str) -> Iterator[Request]:
    params = SamplingParams(max_tokens=num_tokens, temperature=0.0, ignore_eos=True)
    wish = SpeculationParams(policy)
    for number, ids in enumerate(prompts):
        yield Request(f"{number}", tuple(ids), params, 0, wish)


def _judged(tries: Mapping[int, Mapping[int, Nodes]], answer: list[int]) -> dict[int, list[Nodes]]:
    """For each width a trie a position, with the target's own way through it."""
    for some in tries.values():
        for position, nodes in some.items():
            _mark(nodes, answer[position:])
    return {
        width: [some.get(position, NO_NODES) for position in range(len(answer))]
        for width, some in tries.items()
    }


def _mark(nodes: Nodes, future: Sequence[int]) -> None:
    accepted = nodes["is_accepted"]
    columns = (nodes[name].tolist() for name in ("token", "parent", "depth"))
    for place, (token, parent, depth) in enumerate(zip(*columns, strict=True)):
        is_next = depth <= len(future) and token == future[depth - 1]
        accepted[place] = is_next and (parent < 0 or accepted[parent])
