"""What the device is told to do, as a graph: torch's operations, and kernels with all arguments.

Whoever looks at what a tensor holds while it is traced, for a number or for a branch, is refused by
torch. Two runs that give the same graph would be recorded as the same CUDA graph.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.fx.experimental.proxy_tensor import make_fx
from triton.runtime.interpreter import InterpretedFunction

_LIBRARY = torch.library.Library("cast_tests", "FRAGMENT")
_LIBRARY.define("launch(Tensor(a!)[] tensors, str what, int number) -> ()")


@contextmanager
def launches(is_run: bool) -> Iterator[None]:
    """Launches of kernels become operations of torch; they are interpreted only if `is_run`."""
    waiting: dict[int, Callable[[], None]] = {}
    run = InterpretedFunction.run

    def launch(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        tensors = [one for one in args if isinstance(one, torch.Tensor)]
        others = [one for one in args if not isinstance(one, torch.Tensor)]
        shapes = [(str(one.dtype), tuple(one.shape), one.stride()) for one in tensors]
        what = f"{self.fn.__module__}.{self.fn.__name__} {grid} {shapes} {others} {options}"
        waiting[0] = lambda: run(self, *args, grid=grid, warmup=warmup, **options)
        torch.ops.cast_tests.launch(tensors, what, 0)

    def on_cpu(tensors: Any, what: str, number: int) -> None:
        if is_run:
            waiting[number]()

    with torch.library._scoped_library("cast_tests", "IMPL") as library:
        library.impl("launch", on_cpu, "CPU")
        library.impl("launch", lambda tensors, what, number: None, "Meta")
        InterpretedFunction.run = launch
        try:
            yield
        finally:
            InterpretedFunction.run = run


def trace(function: Callable[[Any], Any], inputs: Any) -> str:
    """The graph of `function(inputs)`, where `inputs` is a dataclass of tensors and dataclasses.

    Raises `RuntimeError` if the host asks what a tensor holds, or brings one of its own along.
    """
    tensors: dict[str, torch.Tensor] = {}
    _collect(inputs, "", tensors)
    [device] = {one.device for one in tensors.values()}
    graph = make_fx(lambda given: function(_replace(inputs, "", given)), tracing_mode="real")(
        tensors
    )
    for node in graph.graph.nodes:
        is_foreign = node.op == "get_attr" and getattr(graph, node.target).device != device
        is_foreign |= node.kwargs.get("device", device) != device
        # `torch.tensor` of a list; seen on a CPU only, where all steps of some runs are traced.
        if is_foreign or "lift_fresh" in str(node.target):
            raise RuntimeError(f"{node.target} comes from the host")
    return graph.code


def _collect(value: Any, name: str, found: dict[str, torch.Tensor]) -> None:
    for field in dataclasses.fields(value):
        one = getattr(value, field.name)
        if isinstance(one, torch.Tensor):
            found[f"{name}.{field.name}"] = one
        elif dataclasses.is_dataclass(one):
            _collect(one, f"{name}.{field.name}", found)


def _replace(value: Any, name: str, given: dict[str, torch.Tensor]) -> Any:
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        one, path = getattr(value, field.name), f"{name}.{field.name}"
        if path in given:
            changes[field.name] = given[path]
        elif dataclasses.is_dataclass(one):
            changes[field.name] = _replace(one, path, given)
    return dataclasses.replace(value, **changes)
