"""The profile of this machine, kept in the user's cache so that it is measured once."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

from cast_profiler.fingerprint import Fingerprint
from cast_profiler.profile import Profile
from cast_server.config import EngineConfig
from cast_server.engine.core import EngineCore
from cast_server.errors import ConfigError
from cast_server.model_files import cache_root
from cast_server.profiling.identity import fingerprint_of
from cast_server.profiling.measuring import QUICK, Effort, measure_profile

_log = logging.getLogger(__name__)

_FEW_SAMPLES: Final = 2  # of a point: good enough for today, not for keeps


def profile_for(
    core: EngineCore,
    config: EngineConfig,
    file: Path | None = None,
    *,
    effort: Effort = QUICK,
    show_progress: bool = True,
) -> Profile | None:
    """What passes of this engine cost: from `file`, or from the cache, or measured now and kept.

    To be called before the engine's first request. Raises `ConfigError`, one sentence, if `file`
    cannot be read or was measured of something else; a cached profile that is no good is replaced.
    None: the machine is too busy to run each pass twice, and a guess is better than one sample,
    which may be off by an order of magnitude.
    """
    fingerprint = fingerprint_of(core, config)
    if file is not None:
        return checked_profile(file, fingerprint)
    path = stored_path(fingerprint)
    if path.exists():
        try:
            return checked_profile(path, fingerprint)
        except ConfigError as error:
            _log.warning("Measuring again: %s", error)
    profile = measure_profile(core, config, effort, show_progress)
    if profile.fewest_samples < _FEW_SAMPLES:
        _log.warning(
            "The machine is too busy to measure what steps cost: that is guessed, and measured at "
            "the next start."
        )
        return None
    try:
        profile.save(path)
    except OSError as error:
        _log.warning("The profile cannot be kept for the next start: %s", error)
    return profile


def checked_profile(file: Path, fingerprint: Fingerprint) -> Profile:
    """Reads a profile. Raises `ConfigError` unless it fits."""
    try:
        profile = Profile.load(file)
        profile.check(fingerprint)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return profile


def stored_path(fingerprint: Fingerprint) -> Path:
    """Where the profile of just this is kept: another fingerprint, another file."""
    name = f"{fingerprint.model}-{fingerprint.dtype}-{fingerprint.digest()}.json"
    return cache_root() / "profiles" / name
