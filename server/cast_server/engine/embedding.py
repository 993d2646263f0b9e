"""A text as one vector: what the model's last hidden states are on average."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from cast_server.engine.core import EngineCore
from cast_server.engine.reading import Wish, read


def embed(core: EngineCore, token_ids: Sequence[int]) -> Generator[None, None, list[float]]:
    """A job for `AsyncEngine.work`: the mean over all tokens of the final norm's output, divided by
    its length. The text must fit into the cache."""
    done = yield from read(core, token_ids, Wish(is_normed=True, has_logprobs=False))
    assert done.normed_NE is not None
    mean_E = done.normed_NE.mean(0)
    vector: list[float] = (mean_E / mean_E.norm().clamp(min=1e-12)).tolist()
    return vector
