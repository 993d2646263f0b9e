"""The profile of one model on one machine: a JSON file that people can read and review."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from cast_profiler.cost import CostTable
from cast_profiler.fingerprint import Fingerprint
from cast_profiler.surface import Measurement, Surface

_FORMAT: Final = "castserve profile"
_VERSION: Final = 1


class StaleProfileError(ValueError):
    """A profile was taken of something else than what runs here; the message says of what."""


@dataclass(frozen=True, slots=True)
class MemoryFloor:
    """The time below which no pass can get: all weights have to be read once.

    `weight_bytes` of the linear layers; `bytes_per_second` as measured by summing a buffer of that
    size (at least 64 MiB, at most 1 GiB), the best of five.
    """

    weight_bytes: int
    bytes_per_second: float

    @property
    def seconds(self) -> float:
        return self.weight_bytes / self.bytes_per_second


@dataclass(frozen=True, slots=True)
class Profile:
    """What passes cost. `draft` is None for a drafter that makes none.

    `provenance` says when and how it was measured, in plain JSON values.
    """

    fingerprint: Fingerprint
    verify: Surface
    draft: Surface | None
    memory: MemoryFloor
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def cost(self) -> CostTable:
        """For tree builders."""
        return CostTable(self.verify.curve(), self.draft.curve() if self.draft else None)

    @property
    def fewest_samples(self) -> int:
        """Of any point, the rejected ones included."""
        points = self.verify.points + (self.draft.points if self.draft else ())
        return min(point.samples + point.rejected for point in points)

    def check(self, fingerprint: Fingerprint) -> None:
        """Raises `StaleProfileError` unless the profile was taken of exactly this."""
        difference = self.fingerprint.difference(fingerprint)
        if difference is not None:
            name, measured, present = difference
            raise StaleProfileError(
                f"The profile was measured with {name} {measured!r}, but here it is {present!r}: "
                "measure again with cast-profile, or leave the profile out."
            )

    @classmethod
    def load(cls, path: Path) -> Profile:
        """Reads what `save` wrote. Raises `ValueError`, one sentence, for anything else."""
        try:
            document = json.loads(path.read_text())
        except OSError as cause:
            raise ValueError(f"The profile {path} cannot be read: {cause.strerror}.") from cause
        except ValueError as cause:
            raise ValueError(f"The profile {path} is no JSON: {cause}.") from cause
        kind = document.get("format") if isinstance(document, dict) else None
        if kind != _FORMAT or document.get("version") != _VERSION:
            raise ValueError(
                f"{path} is no {_FORMAT} of version {_VERSION}: measure one with cast-profile."
            )
        try:
            return cls._from_document(document)
        except (KeyError, TypeError, ValueError, AttributeError) as cause:
            raise ValueError(
                f"The profile {path} is damaged ({cause}): measure again with cast-profile."
            ) from cause

    def save(self, path: Path) -> None:
        """Writes the file whole or not at all; makes its directory."""
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            scratch.write_text(self._to_json())
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)

    def _to_json(self) -> str:
        document = {
            "format": _FORMAT,
            "version": _VERSION,
            "fingerprint": asdict(self.fingerprint),
            "verify": _surface_to_json(self.verify),
            "draft": None if self.draft is None else _surface_to_json(self.draft),
            "memory": asdict(self.memory) | {"floor_seconds": self.memory.seconds},
            "provenance": dict(self.provenance),
        }
        text = json.dumps(document, indent=2, ensure_ascii=False)
        # A measurement a line: the file is for people too.
        return re.sub(r'\{\s+("rows": [^{}]*?)\s+\}', _on_one_line, text) + "\n"

    @classmethod
    def _from_document(cls, document: Mapping[str, Any]) -> Profile:
        memory = document["memory"]
        return cls(
            Fingerprint(**document["fingerprint"]),
            _surface_from_json(document["verify"]),
            None if document["draft"] is None else _surface_from_json(document["draft"]),
            MemoryFloor(int(memory["weight_bytes"]), float(memory["bytes_per_second"])),
            dict(document["provenance"]),
        )


def _on_one_line(match: re.Match[str]) -> str:
    return "{" + re.sub(r"\s+", " ", match[1]) + "}"


def _surface_to_json(surface: Surface) -> dict[str, Any]:
    """Slopes and errors are for the reader; they are computed again from the points."""
    curve, error = surface.curve(), surface.fit_error()
    return {
        "points": [asdict(point) for point in surface.points],
        "buckets": list(surface.buckets),
        "fit": {
            "seconds_per_key": curve.seconds_per_key,
            "seconds_per_product": curve.seconds_per_product,
            "seconds_per_sequence": curve.seconds_per_sequence,
            "keys_of_the_curve": curve.keys_at_measurement,
            "leave_one_out_error": None if error is None else asdict(error),
        },
    }


def _surface_from_json(document: Mapping[str, Any]) -> Surface:
    points = tuple(Measurement(**point) for point in document["points"])
    return Surface(points, tuple(document["buckets"]))
