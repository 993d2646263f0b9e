"""A real HTTP server over a scripted engine, and clients for it."""

from __future__ import annotations

import asyncio
import math
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx2
import openai
import pytest
import uvicorn
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from cast_server.api.app import create_app
from cast_server.config import HttpConfig
from cast_server.engine.grammar import Grammar
from cast_server.engine.grammars import Grammars
from cast_server.engine.meter import Meter, SpeculationReport
from cast_server.engine.request import Request, RequestOutput, SpeculationStats, TokenLogprob
from cast_server.errors import RequestError

Script = Callable[[Request], AsyncIterator[RequestOutput]]

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message.role == 'tool' -%}{{ raise_exception('no tools in this template') }}{%- endif -%}
{{- '<' + message['role'] + '>' + message['content'] + '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}<assistant>{%- endif -%}"""


def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, and <|end|> besides, which ends messages."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", chat_template=CHAT_TEMPLATE
    )


class FakeEngine:
    """Plays a script for each request, and notes what it was asked and what was aborted."""

    model_name = "org/tiny"
    max_model_len = 100
    vocab_size = 257
    policies = ("off", "chain", "tree")
    created = 1_700_000_000

    def __init__(self) -> None:
        self.tokenizer = byte_level_tokenizer()
        self.grammars = Grammars(self.tokenizer, self.vocab_size, frozenset({256}))
        self.reset()

    def reset(self) -> None:
        self.is_alive = True
        self.requests: list[Request] = []
        self.aborted: list[str] = []
        self.refusal: Exception | None = None
        self.script: Script = self.saying("Hello", " world")

    def report(self) -> SpeculationReport:
        return Meter().report(math.nan, 1.0)

    def check_grammar(self, grammar: Grammar) -> None:
        self.grammars.check(grammar)

    def check(self, request: Request) -> None:
        if self.refusal is not None:
            raise self.refusal

    async def generate(self, request: Request) -> AsyncIterator[RequestOutput]:
        self.requests.append(request)
        is_complete = False
        try:
            async for output in self.script(request):
                yield output
            is_complete = True
        finally:
            if not is_complete:
                self.aborted.append(request.id)

    def copy_of(self, request: Request) -> int:
        return int(request.id.rsplit("-", 1)[1])

    def ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text)["input_ids"])

    def logprobs(self, text: str, logprob: float = -0.5) -> tuple[TokenLogprob, ...]:
        """Each byte of `text` as a token, with "a" and "b" as the likeliest ones."""
        (a, b) = self.ids("ab")
        return tuple(TokenLogprob(i, logprob, ((a, -0.1), (b, -2.0))) for i in self.ids(text))

    def saying(
        self,
        *texts: str,
        finish: str = "stop",
        delay: Callable[[int], float] = lambda copy: 0.0,
        speculation: SpeculationStats | None = None,
        **last: Any,
    ) -> Script:
        """A script that yields `texts`, one output each, and ends."""

        async def script(request: Request) -> AsyncIterator[RequestOutput]:
            for i, text in enumerate(texts, 1):
                await asyncio.sleep(delay(self.copy_of(request)))
                is_last = i == len(texts)
                wanted = request.params.logprobs is not None
                yield RequestOutput(
                    request_id=request.id,
                    new_token_ids=self.ids(text),
                    text=text,
                    logprobs=self.logprobs(text) if wanted else (),
                    finish_reason=finish if is_last else None,  # type: ignore[arg-type]
                    num_prompt_tokens=len(request.prompt_token_ids),
                    num_output_tokens=len(self.ids("".join(texts[:i]))),
                    speculation=speculation or SpeculationStats(),
                    **(last if is_last else {}),
                )

        return script

    def failing(self, error: Exception, *, after: tuple[str, ...] = ()) -> Script:
        """A script that fails as the engine does: refusals are reported, surprises are raised."""

        async def script(request: Request) -> AsyncIterator[RequestOutput]:
            for text in after:
                yield RequestOutput(request_id=request.id, text=text)
            if not isinstance(error, RequestError):
                raise error
            yield RequestOutput(request_id=request.id, error=error, finish_reason="error")

        return script

    def never_ending(self, text: str = "word ", pause: float = 0.01) -> Script:
        async def script(request: Request) -> AsyncIterator[RequestOutput]:
            while True:
                yield RequestOutput(request_id=request.id, text=text)
                await asyncio.sleep(pause)

        return script

    def silent(self) -> Script:
        """A script of a request that waits in the queue for ever."""

        async def script(request: Request) -> AsyncIterator[RequestOutput]:
            await asyncio.Event().wait()
            yield RequestOutput(request_id=request.id)

        return script


@contextmanager
def running(engine: FakeEngine, config: HttpConfig) -> Iterator[tuple[str, int]]:
    """A server's host and port, while it runs."""
    # asyncio switches Nagle's delays off only where the protocol is spelled out
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.bind(("127.0.0.1", 0))
    app = create_app(engine, config)
    server = uvicorn.Server(
        uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    thread.start()
    try:
        yield "127.0.0.1", sock.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def address() -> Iterator[tuple[str, int, FakeEngine]]:
    engine = FakeEngine()
    with running(engine, HttpConfig()) as (host, port):
        yield host, port, engine


@pytest.fixture
def serve() -> Iterator[Callable[..., tuple[openai.OpenAI, FakeEngine]]]:
    """Starts a server of its own for a model with this chat template and these special tokens."""
    with ExitStack() as stack:

        def start(template: str, *special: str, **config: Any) -> tuple[openai.OpenAI, FakeEngine]:
            engine = FakeEngine()
            engine.max_model_len = 10_000  # definitions of tools are long, a byte a token
            engine.tokenizer.chat_template = template
            engine.tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
            host, port = stack.enter_context(running(engine, HttpConfig(**config)))
            options = {"api_key": "any", "max_retries": 0, "timeout": 10}
            client = openai.OpenAI(base_url=f"http://{host}:{port}/v1", **options)
            return stack.enter_context(client), engine

        yield start


@pytest.fixture
def engine(address: tuple[str, int, FakeEngine]) -> FakeEngine:
    address[2].reset()
    return address[2]


@pytest.fixture(scope="session")
def clients(
    address: tuple[str, int, FakeEngine],
) -> Iterator[tuple[openai.OpenAI, httpx2.Client]]:
    url = f"http://{address[0]}:{address[1]}"
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0, timeout=10) as client,
        httpx2.Client(base_url=url, timeout=10) as http,
    ):
        yield client, http


@pytest.fixture
def client(clients: tuple[openai.OpenAI, httpx2.Client], engine: FakeEngine) -> openai.OpenAI:
    """The official client, without its retries."""
    return clients[0]


@pytest.fixture
def http(clients: tuple[openai.OpenAI, httpx2.Client], engine: FakeEngine) -> httpx2.Client:
    """A plain client, for what the official one would not send."""
    return clients[1]


@pytest.fixture
def connect(
    address: tuple[str, int, FakeEngine], engine: FakeEngine
) -> Callable[[str, bytes], socket.socket]:
    """Posts a body through a bare socket and leaves the rest to the test."""

    def post(path: str, body: bytes) -> socket.socket:
        sock = socket.create_connection(address[:2], timeout=10)
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        sock.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        return sock

    return post


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], None]:
    """Waits until something that happens in the server's thread has happened."""

    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 5
        while not condition():
            assert time.monotonic() < deadline, "it did not happen"
            time.sleep(0.005)

    return wait
