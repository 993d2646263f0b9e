"""How the process writes its log: a line an event, for people or as JSON for machines."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

FIELDS: Final = "fields"  # the attribute of a record that holds its fields, if it has any
_OURS: Final = ("cast_server", "uvicorn")


class JsonFormatter(logging.Formatter):
    """An object a line: `time`, `level`, `logger`, `message`, the record's own fields, and
    `exception` with its traceback, if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": _time(record).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


class TextFormatter(logging.Formatter):
    """Time, level and message, then the record's own fields as name=value; absent ones left out."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = _time(record).strftime("%Y-%m-%d %H:%M:%S")
        fields = "".join(
            f" {name}={_shown(value)}"
            for name, value in _fields(record).items()
            if value not in (None, "")
        )
        line = f"{stamp} {record.levelname} {record.getMessage()}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def set_up_logging(form: str, level: str) -> None:
    """Of the whole process, to stderr. Others' libraries are heard from warnings on."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    for name in _OURS:
        logging.getLogger(name).setLevel(level.upper())


def with_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The `extra` of a log call whose line is to have fields."""
    return {FIELDS: fields}


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    fields: Mapping[str, Any] = getattr(record, FIELDS, {})
    return fields


def _time(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value)
    is_plain = text.isascii() and text.isprintable() and not set(text) & set(' "=')
    return text if is_plain else json.dumps(value, default=str)
