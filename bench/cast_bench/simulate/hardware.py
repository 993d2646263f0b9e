"""How long everything takes on the hardware that is simulated, and the clock that it passes on.

A measured profile says what passes took; a roofline computes what they cannot take less than, from
data sheets and shapes alone. Neither knows of the host, whose work is as the trace has it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

import torch

from cast_bench.kernels.shapes import MODELS, ModelShape
from cast_kernels.work import Work, linear
from cast_profiler.cost import CostCurve, CostModel
from cast_profiler.datasheets import DATA_SHEETS, DataSheet
from cast_profiler.profile import Profile
from cast_server.errors import ConfigError

_ROOFLINE: Final = "roofline:"
_WIDTH: Final = 2  # bytes of a weight, of a key
_COMPUTED: Final = (
    "COMPUTED, NOT MEASURED: times are floors from data sheets, on devices where nothing of this "
    "project was timed. Real passes take longer, and not all by the same factor."
)
_MEASURED: Final = (
    "Simulated: times of passes are those of a measured profile, acceptance a trace's."
)


@dataclass(slots=True)
class Clock:
    """Simulated seconds."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@dataclass(frozen=True, slots=True)
class Host:
    """Seconds of the host's work by number of sequences: straight lines between what was recorded.
    `scale` 0: a host that costs nothing."""

    drafting: CostCurve
    rest: CostCurve
    scale: float = 1.0

    @classmethod
    def recorded(cls, host: Mapping[str, list[float]], scale: float) -> Host:
        rows = tuple(int(one) for one in host["sequences"])
        drafting, rest = (CostCurve(rows, tuple(host[name])) for name in ("drafting", "rest"))
        return cls(drafting, rest, scale)

    def drafting_seconds(self, sequences: int) -> float:
        return self.scale * self.drafting(sequences, 0) if sequences else 0.0

    def rest_seconds(self, sequences: int) -> float:
        return self.scale * self.rest(sequences, 0)


@dataclass(frozen=True, slots=True)
class Hardware:
    """`note` is to stand beside every figure."""

    name: str
    cost: CostModel
    is_computed: bool

    @property
    def note(self) -> str:
        return _COMPUTED if self.is_computed else _MEASURED

    def bytes_held(self, keys: int) -> float | None:
        """Weights and so many tokens of KV cache; None for measured hardware. Whether a device has
        as much memory is for the reader to ask."""
        return self.cost.bytes_held(keys) if isinstance(self.cost, Roofline) else None


@dataclass(frozen=True)
class Roofline(CostModel):
    """The floors of a pass's matrix products and of its attention, one after the other, on `count`
    devices that share all work evenly and talk for nothing. 16-bit weights and keys.

    The drafter is an EAGLE-3 head: one layer over two states side by side, and its own vocabulary.
    """

    shape: ModelShape
    sheet: DataSheet
    count: int = 1

    def verify_seconds(self, rows: int, keys: int, sequences: int = 1) -> float:
        layers = self.shape.layers
        return self._products(rows) + layers * self._attention(rows, keys, sequences)

    def draft_seconds(self, rows: int, keys: int, sequences: int = 1) -> float:
        return self._head_products(rows) + self._attention(rows, keys, sequences)

    def bytes_held(self, keys: int) -> float:
        shape = self.shape
        size = shape.query_heads * shape.head_dim
        layer = shape.hidden * (2 * size + 2 * shape.key_heads * shape.head_dim + 3 * shape.inner)
        weights = shape.layers * layer + 2 * shape.vocabulary * shape.hidden
        return _WIDTH * (weights + 2 * keys * shape.layers * shape.key_heads * shape.head_dim)

    @cached_property
    def _products(self) -> _Products:
        shape = self.shape
        return _Products(self, shape.hidden, shape.layers, shape.vocabulary)

    @cached_property
    def _head_products(self) -> _Products:
        return _Products(self, 2 * self.shape.hidden, 1, self.shape.draft_vocabulary)

    def _attention(self, rows: int, keys: int, sequences: int) -> float:
        """Of one layer; every row of a sequence looks at all of its keys."""
        shape = self.shape
        moved = 2 * _WIDTH * shape.head_dim * (keys * shape.key_heads + rows * shape.query_heads)
        pairs = rows * keys // max(1, sequences)
        return self.floor(Work(moved, 0, 4 * pairs * shape.query_heads * shape.head_dim))

    def floor(self, work: Work) -> float:
        operations = self.sheet.operations_per_second(torch.bfloat16)
        assert operations is not None, self.sheet.name
        speeds = self.sheet.bytes_per_second.value * self.count, operations * self.count
        return work.floor_seconds(*speeds)


@dataclass(frozen=True)
class _Products:
    """Seconds of all matrix products over so many rows; `inputs` numbers go into attention."""

    roofline: Roofline
    inputs: int
    layers: int
    vocabulary: int
    _known: dict[int, float] = field(default_factory=dict)

    def __call__(self, rows: int) -> float:
        if rows not in self._known:
            self._known[rows] = self._seconds(rows)
        return self._known[rows]

    def _seconds(self, rows: int) -> float:
        shape, floor = self.roofline.shape, self.roofline.floor
        size = shape.query_heads * shape.head_dim
        layer = (
            (self.inputs, size + 2 * shape.key_heads * shape.head_dim),
            (size, shape.hidden),
            (shape.hidden, 2 * shape.inner),
            (shape.inner, shape.hidden),
        )
        head = floor(linear(rows, shape.hidden, self.vocabulary))
        return self.layers * sum(floor(linear(rows, *sizes)) for sizes in layer) + head


def hardware(name: str, shape: str) -> Hardware:
    """A profile's file, or `roofline:H100`, `roofline:H100x8` with the shape of a model.

    Raises `ConfigError` with what there is to choose from.
    """
    if name.startswith(_ROOFLINE):
        device, count = _device(name)
        model, sizes = _model(shape)
        title = f"{model} on {f'{count} ' if count > 1 else ''}{device.name}, roofline"
        return Hardware(title, Roofline(sizes, device, count), is_computed=True)
    try:
        profile = Profile.load(Path(name))
    except ValueError as cause:
        raise ConfigError(f"{cause} Or name a device: {', '.join(_rooflines())}.") from cause
    prints = profile.fingerprint
    title = f"{prints.model} on {prints.device}, {prints.threads or 'no'} threads, profile"
    return Hardware(title, profile.cost(), is_computed=False)


def _device(name: str) -> tuple[DataSheet, int]:
    found = re.fullmatch(r"(\w+?)(?:x([1-9]\d{0,3}))?", name.removeprefix(_ROOFLINE))
    sheets = _rooflines()
    sheet = sheets.get(f"{_ROOFLINE}{found[1].upper()}") if found else None
    if sheet is None or found is None:
        choices = ", ".join(sheets)
        raise ConfigError(
            f"--profile {name}: choose a file or {choices}, or {next(iter(sheets))}x8."
        )
    return sheet, int(found[2] or 1)


def _rooflines() -> dict[str, DataSheet]:
    return {f"{_ROOFLINE}{sheet.name.split()[0]}": sheet for sheet in DATA_SHEETS}


def _model(text: str) -> tuple[str, ModelShape]:
    """By its name or how that ends: 8B, 70B."""
    found = [name for name in MODELS if name == text or name.endswith(f"-{text.lower()}")]
    if len(found) != 1:
        raise ConfigError(f"--model-shape {text}: choose one of {', '.join(MODELS)}, or 8B, 70B.")
    return found[0], MODELS[found[0]]
