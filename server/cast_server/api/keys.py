"""API keys: kept as digests, under the names of their owners.

Keys are random and long, so a plain SHA-256 of one tells nothing of it. No key, and nothing from a
line that might hold one by mistake, ever gets into a message.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cast_server.errors import ConfigError

_log = logging.getLogger(__name__)

KEY_VARIABLE: Final = "CASTSERVE_API_KEY"
_OWNER_BY_VARIABLE: Final = "default"
_RELOAD_SECONDS: Final = 1.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")

_Entries = tuple[tuple[str, bytes], ...]
_Stamp = tuple[int, int, int]


class ApiKeys:
    """Whose key it is. A file of keys is read again within a second of a change.

    Raises `ConfigError` for a file that cannot be read, or that holds no key.
    """

    def __init__(self, file: Path | None, key: str = "") -> None:
        self._file = file
        self._own: _Entries = ((_OWNER_BY_VARIABLE, _digest(key)),) if key else ()
        self._entries: _Entries = ()
        self._stamp: _Stamp | None = None
        self._looked_at = time.monotonic()
        if file is not None:
            self._stamp = _stamp(file)
            self._entries = read_entries(file)
            if not (self._entries or self._own):
                raise ConfigError(
                    f"{file} holds no key, so nobody could ask; make one with "
                    "cast-serve --new-api-key NAME."
                )

    @property
    def are_needed(self) -> bool:
        """Whether a request has to bring one."""
        return self._file is not None or bool(self._own)

    def owner(self, key: str) -> str | None:
        """The name that a key belongs to; None for a wrong one. Takes as long for either."""
        self._look_again()
        digest, found = _digest(key), None
        for name, known in (*self._own, *self._entries):
            if hmac.compare_digest(digest, known) and found is None:
                found = name
        return found

    def _look_again(self) -> None:
        """After a second, and only if the file has changed. What cannot be read changes nothing."""
        now = time.monotonic()
        if self._file is None or now - self._looked_at < _RELOAD_SECONDS:
            return
        self._looked_at = now
        stamp: _Stamp | None = None
        try:
            stamp = _stamp(self._file)
            if stamp == self._stamp:
                return
            self._entries = read_entries(self._file)
            _log.info("API keys were read again: there are %d.", len(self._entries))
        except ConfigError as error:
            if stamp != self._stamp:
                _log.error("API keys stay as they were. %s", error)
        self._stamp = stamp


def keys_of(file: str | None, environment: Mapping[str, str]) -> ApiKeys:
    """The keys of a file and of the environment. Raises `ConfigError`."""
    key = environment.get(KEY_VARIABLE, "").strip()
    return ApiKeys(None if file is None else Path(file).expanduser(), key)


def new_key(name: str) -> tuple[str, str]:
    """A new key and its line for the file. Raises `ConfigError` for a name that cannot be one."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"--new-api-key {name[:80]!r}: a name is up to 64 letters, digits and . _ @ - signs."
        )
    key = f"sk-cast-{secrets.token_urlsafe(32)}"
    return key, f"{name}:{_digest(key).hex()}"


def read_entries(file: Path) -> _Entries:
    """Names and digests. Raises `ConfigError` with the number of a line that is none."""
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The API keys in {file} cannot be read: {_reason(error)}.") from error
    entries = []
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        name, _, digest = line.partition(":")
        if not (_NAME.fullmatch(name) and _DIGEST.fullmatch(digest.strip())):
            raise ConfigError(
                f"{file}, line {number}: this is no name:sha256; make a line with "
                "cast-serve --new-api-key NAME."
            )
        entries.append((name, bytes.fromhex(digest)))
    return tuple(entries)


def _stamp(file: Path) -> _Stamp:
    try:
        found = file.stat()
    except OSError as error:
        raise ConfigError(f"The API keys in {file} cannot be read: {_reason(error)}.") from error
    return found.st_mtime_ns, found.st_size, found.st_ino


def _reason(error: OSError | UnicodeDecodeError) -> str:
    if isinstance(error, OSError):
        return error.strerror or "the file is not there"
    return "it is not text in UTF-8"


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
