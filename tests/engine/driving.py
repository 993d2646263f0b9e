"""Drives an `EngineCore` to the end of a set of requests, and drafters that try to mislead it."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cast_drafters.calibration import Calibration
from cast_drafters.tree import EMPTY_TREE, tree_from_arrays
from cast_server.engine.request import Request, RequestOutput, SamplingParams, SpeculationParams


@dataclass
class Answer:
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    logprobs: list = field(default_factory=list)
    prompt_logprobs: list = field(default_factory=list)
    last: RequestOutput | None = None


def request(name, prompt_ids, params: SamplingParams, policy="off", seed=0) -> Request:
    return Request(name, tuple(prompt_ids), params, seed, SpeculationParams(policy))


def run(core, requests: Sequence[Request], concurrency: int = 8) -> dict[str, Answer]:
    """Keeps `concurrency` requests in the engine until all have ended."""
    answers = {one.id: Answer() for one in requests}
    waiting = list(reversed(requests))
    active = 0
    while waiting or active:
        while waiting and active < concurrency:
            core.add(waiting.pop())
            active += 1
        for output in core.step():
            answer = answers[output.request_id]
            answer.tokens += output.new_token_ids
            answer.text += output.text
            answer.logprobs += output.logprobs
            answer.prompt_logprobs += output.prompt_logprobs
            answer.last = output
            active -= output.finish_reason is not None
    assert core.scheduler.pool.num_free == core.scheduler.pool.num_blocks
    return answers


class Adversary:
    """Hides the right continuation, if it knows it, among duplicates and random branches.

    `truth` maps a request's name (up to its "/") to the tokens of prompt and answer.
    """

    name = "adversary"
    calibration = Calibration()  # learns nothing

    def __init__(self, vocab_size: int, nodes: int, deep: bool, truth: Mapping[str, list[int]]):
        self._random = random.Random(nodes)
        self._vocab_size = vocab_size
        self._nodes = nodes
        self._deep = deep
        self._truth = truth

    def begin(self, request_id, token_ids) -> None:
        pass

    def observe(self, results) -> None:
        pass

    def release(self, request_id) -> None:
        pass

    def propose(self, contexts, gate=None):
        return [self._tree(context) for context in contexts]

    def _tree(self, context):
        count = min(self._nodes, context.limits.max_nodes)
        if not count:
            return EMPTY_TREE
        truth = self._truth.get(context.request_id, [])[len(context.token_ids) :]
        tokens, parents, right = [], [], -1  # the node down to which all is right
        depth = 0
        for node in range(count):
            if depth < len(truth) and self._random.random() < 0.5:
                tokens.append(truth[depth])
                parents.append(right)
                if self._random.random() < 0.7:  # else a duplicate that leads nowhere follows
                    right = node
                    depth += 1
            else:
                tokens.append(self._random.randrange(self._vocab_size))
                parents.append(node - 1 if self._deep else self._random.randrange(-1, node))
        return tree_from_arrays(tokens, parents, [0.0] * count)
