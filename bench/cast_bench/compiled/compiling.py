"""Compilations side by side, in processes that do not interpret; Triton's cache serves again."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context
from typing import Final

from cast_bench.compiled.architectures import ARCHITECTURES
from cast_bench.compiled.machine_code import Resources, resources
from cast_kernels.compilation import Compilation

# Every module of cast_kernels with a function `compilations`.
MODULES: Final = (
    "cast_kernels.tree_attention.kernel",
    "cast_kernels.tree_attention.merge",
    "cast_kernels.kv_write.kernel",
    "cast_kernels.kv_commit.kernel",
    "cast_kernels.tree_accept.kernel",
    "cast_kernels.gumbel.kernel",
    "cast_kernels.norm_linear.kernel",
    "cast_kernels.log_softmax_topk.kernel",
    "cast_kernels.frontier.kernel",
)


class CompilerError(Exception):
    """A compiler gave up; the message says on what."""


@dataclass(frozen=True, slots=True)
class Case:
    """A compilation and where it is found again in another process, which takes no functions."""

    module: str
    index: int
    one: Compilation


def cases() -> Iterator[Case]:
    """All there are."""
    for module in MODULES:
        for index, one in enumerate(import_module(module).compilations()):
            yield Case(module, index, one)


def compile_cases(
    wanted: Iterable[Case], processes: int
) -> Iterator[tuple[Case, Mapping[str, Resources]]]:
    """In their order, each on all architectures that have its types. Raises `CompilerError`."""
    context = get_context("spawn")  # a fork would inherit a Triton that may interpret
    pool = ProcessPoolExecutor(processes, context, _leave_interrupts)
    try:
        with _no_interpreter():
            futures = [(case, _submit(pool, case)) for case in wanted]
        for case, on in futures:
            yield case, {name: _result(case, name, future) for name, future in on.items()}
    finally:
        pool.shutdown(cancel_futures=True)


def _submit(pool: ProcessPoolExecutor, case: Case) -> dict[str, Future[Resources]]:
    return {
        architecture.name: pool.submit(_compile, case.module, case.index, architecture.target)
        for architecture in ARCHITECTURES
        if architecture.name not in case.one.beside
    }


def _result(case: Case, architecture: str, future: Future[Resources]) -> Resources:
    where = f"{case.one.name} on {architecture}"
    try:
        return future.result()
    except BrokenProcessPool as cause:
        raise CompilerError(
            f"a compiler ended its process, at {where} or at one of the next; "
            "--processes 1 --only tells which"
        ) from cause
    except Exception as cause:
        raise CompilerError(f"{where} does not compile: {cause}") from cause


def _compile(module: str, index: int, target: tuple[str, int | str, int]) -> Resources:
    compilations: Sequence[Compilation] = list(import_module(module).compilations())
    return resources(compilations[index], target)


def _leave_interrupts() -> None:
    """To the parent, which has more to do than a worker that ends amid a compilation."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _no_interpreter() -> Iterator[None]:
    interprets = os.environ.pop("TRITON_INTERPRET", None)
    try:
        yield
    finally:
        if interprets is not None:
            os.environ["TRITON_INTERPRET"] = interprets
