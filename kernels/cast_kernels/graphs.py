"""A function that is recorded once and replayed: CUDA graphs, and plain calls where there are none.

What is to be recorded reads and writes tensors at fixed places, launches the same kernels whatever
those hold, and never waits for the device.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Final, Generic, TypeVar

import torch
from tqdm import tqdm

_log = logging.getLogger(__name__)

_WARM_UP: Final = 2  # calls before the recording: kernels are compiled, libraries set up

Result = TypeVar("Result")


class Graph(Generic[Result]):
    """Calls `function`, until `capture` has recorded it; from then on replays it.

    The result of a replay is the one of the recording, filled anew: read it before the next replay
    of a graph that shares its memory pool.
    """

    def __init__(self, function: Callable[[], Result]) -> None:
        self._function = function
        self._graph: torch.cuda.CUDAGraph | None = None
        self._result: Result | None = None

    @property
    def is_captured(self) -> bool:
        return self._graph is not None

    def capture(self, pool: Any) -> None:
        """Records on the current CUDA device, in memory of `pool`.

        Raises `RuntimeError` if the function waits for the device.
        """
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                self._function()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            result = self._function()
        self._graph, self._result = graph, result

    def __call__(self) -> Result:
        if self._graph is None:
            return self._function()
        self._graph.replay()
        assert self._result is not None
        return self._result


def capture_all(graphs: Sequence[Graph[Any]], what: str, show_progress: bool = True) -> bool:
    """Records graphs that never run at the same time, and share their memory, from the last to
    the first: of these, the last is to be the largest.

    False, with a warning, if one cannot be recorded: none of them is to be used then.
    """
    bar = tqdm(
        reversed(graphs),  # the smaller ones fit into what the larger ones have freed
        desc=f"Recording {what}",
        total=len(graphs),
        disable=None if show_progress else True,
        leave=False,
    )
    try:
        pool = torch.cuda.graph_pool_handle()
        for graph in bar:
            graph.capture(pool)
    except RuntimeError as error:
        _log.warning("There are no CUDA graphs of %s, they cannot be recorded: %s", what, error)
        return False
    return True


def bucket_sizes(count: int, most: int) -> tuple[int, ...]:
    """`count` numbers of rows, or fewer, rising to `most`, that steps are padded to.

    Powers of two and `most`; the smallest are left out where that is too many, and where it is too
    few, gaps are halved, the widest in proportion first.
    """
    assert most > 0, most
    sizes = [2**power for power in range(most.bit_length()) if 2**power < most] + [most]
    while len(sizes) < count:
        gaps = [(low, high) for low, high in pairwise(sizes) if high > low + 1]
        if not gaps:
            break
        low, high = max(gaps, key=lambda gap: (gap[1] / gap[0], gap[0]))
        sizes.insert(sizes.index(high), (low + high) // 2)
    return tuple(sizes[max(0, len(sizes) - count) :])
