"""The evaluators by id. A new one is one file and one line here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cast_server.evaluators.base import Evaluator

EVALUATORS: Final[Mapping[str, Evaluator[Any]]] = {}
