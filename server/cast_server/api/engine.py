"""What the HTTP layer needs of an engine, and nothing more."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

from cast_server.engine.grammar import Grammar
from cast_server.engine.meter import SpeculationReport
from cast_server.engine.request import Request, RequestOutput


class Engine(Protocol):
    """Generates. All members are for the event loop's thread, unless they say otherwise."""

    @property
    def model_name(self) -> str:
        """The name that clients use."""

    @property
    def max_model_len(self) -> int:
        """Most tokens of prompt and completion together."""

    @property
    def vocab_size(self) -> int:
        """Token ids are below this."""

    @property
    def tokenizer(self) -> Any:
        """The model's fast tokenizer from transformers; also used from worker threads."""

    @property
    def policies(self) -> tuple[str, ...]:
        """Kinds of speculation policy that a request may name."""

    @property
    def created(self) -> int:
        """When the model was loaded, in Unix seconds."""

    @property
    def is_alive(self) -> bool:
        """Whether requests are being worked on."""

    def report(self) -> SpeculationReport:
        """What speculation has been worth so far."""
        ...

    def check_grammar(self, grammar: Grammar) -> None:
        """Makes a grammar ready, in a worker thread. Raises `RequestError` if it cannot be used."""

    def check(self, request: Request) -> None:
        """Raises `RequestError` if the request cannot be taken, now or ever."""

    def generate(self, request: Request) -> AsyncIterator[RequestOutput]:
        """Yields news of the request; the last has a `finish_reason` or an `error`.

        Cancelling the task that waits for the next output aborts the request.
        """
        ...
