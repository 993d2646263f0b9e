"""The sizes that operations are timed at and that floors are computed for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

TAPS: Final = 3  # hidden states that an EAGLE-3 head reads
TOP: Final = 8  # children that a draft node may have
DEPTH: Final = 6  # of a draft tree; so many keys are moved if all of a path is accepted


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A model and its draft head. `inner` is the size of the gated MLP's middle."""

    layers: int
    hidden: int
    query_heads: int
    key_heads: int
    head_dim: int
    inner: int
    vocabulary: int
    draft_vocabulary: int

    @property
    def group(self) -> int:
        return self.query_heads // self.key_heads


MODELS: Final[Mapping[str, ModelShape]] = MappingProxyType(
    {
        "smollm2-135m": ModelShape(30, 576, 9, 3, 64, 1536, 49152, 8192),
        "llama-3.1-8b": ModelShape(32, 4096, 32, 8, 128, 14336, 128256, 32000),
        "llama-3.1-70b": ModelShape(80, 8192, 64, 8, 128, 28672, 128256, 32000),
    }
)


@dataclass(frozen=True, slots=True)
class Step:
    """One step: `batch` sequences, each with a tree of `rows` (the root is one of them) behind
    `context` tokens."""

    batch: int = 8
    rows: int = 16
    context: int = 4096

    @property
    def all_rows(self) -> int:
        return self.batch * self.rows
