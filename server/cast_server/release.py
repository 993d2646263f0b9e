"""Which castserve this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def release() -> str:
    """The version that is installed."""
    try:
        return version("castserve")
    except PackageNotFoundError:
        return "(not installed)"
