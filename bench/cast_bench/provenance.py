"""Enough beside every figure to take it again, and to judge whether it can be compared."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Set
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from cast_profiler.device import device_name

_PACKAGES = ("castserve", "torch", "transformers", "xllamacpp")


def provenance(module: str, args: argparse.Namespace) -> dict[str, Any]:
    """Of one run of `python -m <module>`. Paths go by their last part."""
    cpu = device_name(torch.device("cpu"))
    return {
        "module": module,
        "arguments": {name: _plain(value) for name, value in vars(args).items() if name != "json"},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "git": _git("rev-parse", "HEAD"),
        "git_dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, {cpu}",
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def other_arguments(before: dict[str, Any], now: dict[str, Any], free: Set[str]) -> str:
    """Which arguments of a run are not those of another one, but for the `free` ones; "" if none.

    `before` has been through JSON.
    """
    old, new = before["arguments"], json.loads(json.dumps(now["arguments"]))
    names = [name for name in sorted({*old, *new} - free) if old.get(name) != new.get(name)]
    return ", ".join(f"{name} {old.get(name)!r}, not {new.get(name)!r}" for name in names)


def _plain(value: Any) -> Any:
    if isinstance(value, Path) or (isinstance(value, str) and Path(value).is_absolute()):
        return Path(value).name
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*words: str) -> str:
    return subprocess.run(
        ["git", *words], capture_output=True, text=True, check=False
    ).stdout.strip()
