"""Evaluations over HTTP with a scripted model and two small evaluators.

As a program it serves them until it is killed: arguments are the journal, a file that gets a line
for each unit that is begun, and how many seconds a unit takes.
"""

from __future__ import annotations

import asyncio
import math
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import httpx2
import uvicorn
from pydantic import BaseModel, Field

from cast_server.api.app import create_app
from cast_server.config import HttpConfig
from cast_server.engine.ledger import Figures, Ledger
from cast_server.engine.meter import Meter
from cast_server.errors import EngineOverloadedError, RequestError
from cast_server.evaluators.base import Evaluator, Params, Record, Undefined, Unit
from cast_server.evaluators.jobs.journal import Journal
from cast_server.evaluators.jobs.limits import ServiceLimits
from cast_server.evaluators.jobs.service import Evaluations
from cast_server.evaluators.subject import Capability, Generation, Message, Subject, Written


class ScriptedSubject:
    """Answers "<phase> <text>" with the text, unless told to fail, wait or hold back.

    held: phases whose answers are held back. begun, aborted: what was asked, and what was not
    answered as its task was cancelled.
    """

    num_layers = hidden_size = 2
    max_length = 100

    def __init__(self, name: str = "m", weights: str = "sha256:1", says: str = "") -> None:
        self.name = name
        self.fingerprint: Mapping[str, str] = {"weights": weights}
        self.capabilities = frozenset({Capability.GENERATION})
        self.says = says
        self.held: set[str] = set()
        self.failing: dict[str, Exception] = {}
        self.overloads = 0
        self.seconds = self.abort_seconds = 0.0
        self.begun: list[str] = []
        self.aborted: list[str] = []
        self.running = self.most_running = 0
        self.on_begin: Callable[[str], None] = lambda asked: None

    def tokenize(self, text: str) -> list[int]:
        return [1] * len(text)

    async def write(self, messages: Sequence[Message], how: Generation) -> Written:
        asked = messages[0]["content"]
        phase, _, text = asked.partition(" ")
        self.begun.append(asked)
        self.on_begin(asked)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await asyncio.sleep(self.seconds)
            while phase in self.held:  # noqa: ASYNC110 - it is set in another thread
                await asyncio.sleep(0.002)
            if self.overloads:
                self.overloads -= 1
                raise EngineOverloadedError("full")
            if asked in self.failing:
                raise self.failing[asked]
        except asyncio.CancelledError:
            self.aborted.append(asked)
            await asyncio.sleep(self.abort_seconds)
            raise
        finally:
            self.running -= 1
        return Written(text + self.says, "stop", len(asked), len(text))


class EchoParams(Params):
    """repeats: how many items to make if there is no input. summary_seconds: what summing up
    takes."""

    repeats: int = Field(0, ge=0)
    undefined: tuple[int, ...] = ()
    not_finite: tuple[int, ...] = ()
    summary: float | None = 1.0
    summary_seconds: float = 0.0
    needs_hidden: bool = False


class EchoItem(BaseModel):
    index: int
    status: Literal["ok", "undefined"]
    text: str | None
    length: int | None
    half: float | None


class EchoSummary(BaseModel):
    num_items: int
    num_undefined: int
    mean_length: float | None
    odd: float | None


class Echo(Evaluator[EchoParams]):
    """Two phases: what the model says, then what it says of that."""

    id = "echo"
    version = "1"
    title = "Echo"
    description = "How long an echo is."
    params_type = EchoParams
    item_type = EchoItem
    summary_type = EchoSummary
    metrics = ("length", "half")

    def requires(self, params: EchoParams) -> frozenset[Capability]:
        more = {Capability.HIDDEN_STATES} if params.needs_hidden else set()
        return frozenset({Capability.GENERATION, *more})

    def plan(self, params: EchoParams, inputs: Sequence[str]) -> list[Unit]:
        if "refuse me" in inputs:
            raise RequestError("input[0] is refused.", "input[0]")
        count = len(inputs) or params.repeats
        return [Unit(phase, i) for phase in ("generate", "verify") for i in range(count)]

    async def run(
        self,
        unit: Unit,
        params: EchoParams,
        inputs: Sequence[str],
        subject: Subject,
        done: Mapping[Unit, Record],
    ) -> Record:
        text = inputs[unit.index] if inputs else str(unit.index)
        if unit.phase == "verify":
            text = done[Unit("generate", unit.index)]["text"]
        if unit.index in params.undefined:
            raise Undefined("no_echo")
        written = await subject.write([{"content": f"{unit.phase} {text}"}], Generation())
        odd = {"odd": float("nan")} if unit.index in params.not_finite else {}
        return {"text": written.text, **odd}

    def items(
        self, params: EchoParams, inputs: Sequence[str], records: Mapping[Unit, Record]
    ) -> list[BaseModel]:
        return [self._item(unit.index, record["text"], records) for unit, record in records.items()
                if unit.phase == "generate"]  # fmt: skip

    def summarise(self, params: EchoParams, items: Sequence[BaseModel]) -> BaseModel:
        time.sleep(params.summary_seconds)
        lengths = [item.length for item in items if item.length is not None]
        return EchoSummary(
            num_items=len(items),
            num_undefined=len(items) - len(lengths),
            mean_length=sum(lengths) / len(lengths) if lengths else None,
            odd=params.summary if params.summary is None else params.summary / 1,
        )

    def _item(self, index: int, text: str, records: Mapping[Unit, Record]) -> EchoItem:
        half = len(text) / 2 if Unit("verify", index) in records else None
        return EchoItem(
            index=index,
            status="ok" if text else "undefined",
            text=text,
            length=len(text) or None,
            half=half,
        )


class CountParams(Params):
    """limit: has to be given."""

    limit: int = Field(ge=1)


class CountItem(BaseModel):
    index: int
    count: int


class CountSummary(BaseModel):
    total: int


class Count(Evaluator[CountParams]):
    """One phase, and a parameter without a default."""

    id = "token_count"
    version = "3"
    title = "Token count"
    description = "How many tokens a text has."
    params_type = CountParams
    item_type = CountItem
    summary_type = CountSummary
    metrics = ("count",)

    def requires(self, params: CountParams) -> frozenset[Capability]:
        return frozenset()

    def plan(self, params: CountParams, inputs: Sequence[str]) -> list[Unit]:
        return [Unit("count", i) for i in range(len(inputs))]

    async def run(self, unit, params, inputs, subject, done) -> Record:  # type: ignore[no-untyped-def]
        return {"count": min(params.limit, len(subject.tokenize(inputs[unit.index])))}

    def items(self, params, inputs, records) -> list[BaseModel]:  # type: ignore[no-untyped-def]
        return [CountItem(index=unit.index, **record) for unit, record in records.items()]

    def summarise(self, params, items) -> BaseModel:  # type: ignore[no-untyped-def]
        return CountSummary(total=sum(item.count for item in items))


EVALUATORS: Mapping[str, Evaluator[Any]] = {"echo": Echo(), "token_count": Count()}
QUIET = ServiceLimits(queue_length=3)


def make_app(
    journal: Path, subjects: Mapping[str, Subject], limits: ServiceLimits = QUIET, **others: Any
) -> Any:
    evaluations = Evaluations(Journal(journal), subjects, EVALUATORS, limits, **others)
    figures = Figures(Ledger(), "ngram", Meter().report(math.nan, 1.0), 0, 0, 0, 0, 0.0)
    engine = SimpleNamespace(tokenizer=None, model_name="m", figures=lambda: figures)
    return create_app(engine, HttpConfig(), evaluations)


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """Serves until the end of the block, on a real socket; its base URL."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_config=None, lifespan="on", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.005)
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


class Client(httpx2.Client):
    """Asks for evaluations, and waits for them."""

    def create(self, **fields: Any) -> dict[str, Any]:
        answer = self.post("/v1/evaluations", json={"evaluator": "echo", "model": "m", **fields})
        assert answer.status_code == 202, answer.text
        assert answer.headers["location"] == f"/v1/evaluations/{answer.json()['id']}"
        return answer.json()

    def job(self, job: dict[str, Any]) -> dict[str, Any]:
        return self.get(f"/v1/evaluations/{job['id']}").json()

    def cancel(self, job: dict[str, Any]) -> dict[str, Any]:
        answer = self.post(f"/v1/evaluations/{job['id']}/cancel")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def items(self, job: dict[str, Any], **query: Any) -> dict[str, Any]:
        return self.get(f"/v1/evaluations/{job['id']}/items", params=query).json()

    def until(
        self, job: dict[str, Any], condition: Callable[[dict[str, Any]], bool], seconds: float = 10
    ) -> Any:
        deadline = time.monotonic() + seconds
        while not condition(now := self.job(job)):
            assert time.monotonic() < deadline, now
            time.sleep(0.005)
        return now

    def end(self, job: dict[str, Any]) -> dict[str, Any]:
        return self.until(job, lambda now: now["finished_at"] is not None)


def main(journal: str, units: str, seconds: str) -> None:
    subject = ScriptedSubject()
    subject.seconds = float(seconds)

    def note(asked: str) -> None:
        with Path(units).open("a") as file:
            file.write(f"{asked}\n")

    subject.on_begin = note
    with serving(make_app(Path(journal), {"m": subject}, ServiceLimits(concurrency=2))) as url:
        print(url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
