"""What a drafter would propose at every position of texts that the target generated, in one file.

At each position a trie holds all that any narrower draft could need. A node's children are there
twice over: those that a pass of the drafter over the node gives it, and those that it has for
nothing, from the text and the store. Behind the latter no pass ever goes.

A drafter's guesses depend a little on how many are asked of it, so there is a trie for each width.
Shape suffix: N nodes of one position; a node's parent is an earlier one, -1 the root.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from cast_server.errors import ConfigError

_FORMAT: Final = "castserve draft trace"
_VERSION: Final = 1

# `level` is the pass that ran the node when it was recorded, -1: none did. `log_prob` is that of
# the path, calibrated; `confidence` the drafter's own, given the parent; both natural logarithms.
# `is_free`: known without a pass over the parent. `is_accepted`: the path is the target's own text.
NODE: Final = np.dtype(
    [
        ("token", np.int32),
        ("parent", np.int32),
        ("depth", np.int16),
        ("rank", np.int16),
        ("source", np.int8),
        ("level", np.int8),
        ("is_free", np.bool_),
        ("is_accepted", np.bool_),
        ("confidence", np.float64),
        ("log_prob", np.float64),
    ]
)
Nodes = NDArray[np.void]
NO_NODES: Final = np.empty(0, NODE)


@dataclass(slots=True)
class Script:
    """A prompt's answer. `tries[width][p]` are the nodes behind its first p tokens, [N] of `NODE`;
    without any where nothing was to be drafted."""

    dataset: str
    num_prompt: int
    token_ids: list[int]
    tries: dict[int, list[Nodes]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recorded:
    """How a trace was taken, in plain JSON values.

    `has_passes`: the drafter runs a model. `is_batched`: its passes take all sequences together.
    `host`: seconds of the host's work by number of sequences, for drafting and for the rest of a
    step, means of the recording engine's steps.
    """

    model: str
    drafter: str
    widths: tuple[int, ...]
    levels: int
    nodes: int
    has_passes: bool
    is_batched: bool
    host: Mapping[str, list[float]]
    provenance: Mapping[str, Any]

    @property
    def facts(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in Recorded.__slots__}


@dataclass(frozen=True, slots=True)
class Trace:
    recorded: Recorded
    scripts: list[Script]

    @property
    def datasets(self) -> list[str]:
        return list(dict.fromkeys(one.dataset for one in self.scripts))

    @property
    def num_nodes(self) -> int:
        return sum(len(nodes) for s in self.scripts for some in s.tries.values() for nodes in some)

    def of(self, dataset: str) -> list[int]:
        """Numbers of a data set's scripts."""
        return [i for i, one in enumerate(self.scripts) if one.dataset == dataset]

    def width_for(self, width: int) -> int:
        """The narrowest recorded width that is no narrower, or the widest there is."""
        wide = [one for one in self.recorded.widths if one >= width]
        return min(wide) if wide else max(self.recorded.widths)

    def save(self, path: Path) -> None:
        """Writes the file whole or not at all; makes its directory."""
        header = {"format": _FORMAT, "version": _VERSION} | self.recorded.facts
        scripts = self.scripts
        arrays: dict[str, Any] = {
            "header": np.array(json.dumps(header)),
            "dataset": np.array([one.dataset for one in scripts]),
            "num_prompt": np.array([one.num_prompt for one in scripts], np.int32),
            "token_ids": np.array([t for one in scripts for t in one.token_ids], np.int32),
            "lengths": np.array([len(one.token_ids) for one in scripts], np.int32),
        }
        for width in self.recorded.widths:
            tries = [nodes for one in scripts for nodes in one.tries[width]]
            arrays[f"nodes_{width}"] = np.concatenate([NO_NODES, *tries])
            arrays[f"counts_{width}"] = np.array([len(nodes) for nodes in tries], np.int32)
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(".new")
        with scratch.open("wb") as file:
            np.savez_compressed(file, **arrays)
        scratch.replace(path)

    @classmethod
    def load(cls, path: Path) -> Trace:
        """Raises `ConfigError`, one sentence, for anything but what `save` wrote."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                header = json.loads(str(arrays["header"]))
                if (header.pop("format"), header.pop("version")) != (_FORMAT, _VERSION):
                    raise ValueError(f"it is not of version {_VERSION}")
                header["widths"] = tuple(header["widths"])
                recorded = Recorded(**header)
                return cls(recorded, _scripts(arrays, recorded.widths))
        except OSError as cause:
            reason = cause.strerror or "it is no such file"
            raise ConfigError(f"The trace {path} cannot be read: {reason}.") from cause
        except (ValueError, KeyError, TypeError, EOFError, BadZipFile) as cause:
            raise ConfigError(
                f"{path} is no {_FORMAT} ({cause}): record one with cast-bench simulate record."
            ) from cause


def _scripts(arrays: Mapping[str, NDArray[Any]], widths: Sequence[int]) -> list[Script]:
    names, prompts = arrays["dataset"].tolist(), arrays["num_prompt"].tolist()
    spans = list(pairwise([0, *accumulate(arrays["lengths"].tolist())]))
    tokens = arrays["token_ids"].tolist()
    tries = {width: _split(arrays[f"nodes_{width}"], arrays[f"counts_{width}"]) for width in widths}
    return [
        Script(
            name, num_prompt, tokens[begin:end], {w: some[begin:end] for w, some in tries.items()}
        )
        for name, num_prompt, (begin, end) in zip(names, prompts, spans, strict=True)
    ]


def _split(nodes: Nodes, counts: NDArray[np.int32]) -> list[Nodes]:
    return np.split(nodes, np.cumsum(counts)[:-1]) if len(counts) else []
