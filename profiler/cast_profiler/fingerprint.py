"""What a profile depends on. Another value anywhere, and the times are those of something else."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version
from typing import Final

_PACKAGES: Final = ("castserve", "torch", "transformers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """`shape` and `head` are digests of the model's and the draft head's configuration; `head` is
    "" for a drafter without one. `versions` is one line of packages with their versions.
    """

    device: str
    threads: int
    model: str
    shape: str
    dtype: str
    backend: str
    drafter: str
    head: str
    versions: str

    def difference(self, other: Fingerprint) -> tuple[str, object, object] | None:
        """The first entry that differs: its name, its value here, its value there."""
        for field in fields(self):
            mine, others = getattr(self, field.name), getattr(other, field.name)
            if mine != others:
                return field.name, mine, others
        return None

    def digest(self) -> str:
        """A short name for all entries together."""
        return digest(repr(asdict(self)))


def digest(text: str) -> str:
    """16 hexadecimal digits that tell one configuration from another."""
    return blake2b(text.encode(), digest_size=8).hexdigest()


def package_versions() -> str:
    """As in "castserve 0.1.0, torch 2.13.0, …"; of the installed distributions."""
    return ", ".join(f"{name} {_version(name)}" for name in _PACKAGES)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(not installed)"
