"""What it costs an engine to count for /metrics: its time in the ledger over that of its steps.

Every call of the ledger on the engine's thread is timed, the timing included, so what is reported
is a little too much. A scrape is timed as well: a copy of all counts, and its text.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from prometheus_client.exposition import generate_latest

from cast_bench.prompts import PROMPTS, chat_ids
from cast_bench.provenance import provenance
from cast_server.build import build_core
from cast_server.config import EngineConfig, HttpConfig
from cast_server.engine.async_engine import AsyncEngine
from cast_server.engine.core import EngineCore
from cast_server.engine.ledger import Ledger
from cast_server.engine.request import Request, SamplingParams, SpeculationParams
from cast_server.model_files import load_model, resolve_model
from cast_server.observing.observer import Observer

_CALLS: Final = ("begin", "commit", "step", "spend", "end")
_SCRAPES: Final = 50


def main(argv: Sequence[str] | None = None) -> int:
    args = _parse(argv)
    torch.set_num_threads(args.threads)
    model, tokenizer = load_model(resolve_model(args.model), torch.bfloat16)
    core = build_core(EngineConfig(model=args.model, kv_cache_tokens=16384), model, tokenizer)
    prompts = [tuple(chat_ids(tokenizer, prompt)) for prompt in PROMPTS]
    document: dict[str, Any] = {"provenance": provenance("cast_bench.counting", args)}
    for policy in args.policy.split(","):
        for size in map(int, args.batch_size.split(",")):
            one = measure(core, prompts[:size], policy, args.tokens)
            document[f"{policy} x {size}"] = one
            print(
                f"{policy} x {size}: {1e6 * one['counting'] / one['steps']:.0f} µs of "
                f"{1e3 * one['stepping'] / one['steps']:.1f} ms a step, {one['share']:.3%}"
            )
    document["scrape"] = scrape_seconds(core)
    print(f"a scrape: {1e3 * document['scrape']:.1f} ms, on the event loop's thread")
    if args.json:
        args.json.write_text(json.dumps(document) + "\n")
    return 0


def measure(
    core: EngineCore, prompts: Sequence[tuple[int, ...]], policy: str, num_tokens: int
) -> dict[str, float]:
    """One batch to its end. Returns seconds of counting and of all steps, and their ratio."""
    before, spent = core.ledger, [0.0]
    core.ledger = _timed(before, spent)
    params = SamplingParams(max_tokens=num_tokens, temperature=0.0, ignore_eos=True)
    for index, prompt in enumerate(prompts):
        core.add(Request(f"timed-{index}", prompt, params, index, SpeculationParams(policy)))
    steps, begin = 0, time.perf_counter()
    while core.has_work:
        core.step()
        steps += 1
    stepping = time.perf_counter() - begin
    core.ledger = before
    counting = spent[0]
    return {
        "steps": steps,
        "counting": counting,
        "stepping": stepping,
        "share": counting / stepping,
    }


def scrape_seconds(core: EngineCore) -> float:
    """The mean of some scrapes."""
    registry = Observer(AsyncEngine(core, "measured"), HttpConfig()).registry
    begin = time.perf_counter()
    for _ in range(_SCRAPES):
        generate_latest(registry)
    return (time.perf_counter() - begin) / _SCRAPES


def _timed(ledger: Ledger, spent: list[float]) -> Any:
    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            begin = time.perf_counter()
            result = call(*args)
            spent[0] += time.perf_counter() - begin
            return result

        return run

    calls = {name: staticmethod(timed(getattr(ledger, name))) for name in _CALLS}
    return type("TimedLedger", (), calls)()


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="cast-bench counting", description=__doc__)
    add = parser.add_argument
    add("--model", default="smollm2-135m-instruct")
    add("--policy", default="off,cast", help="policies, separated by commas")
    add("--batch-size", default="1,8", help="numbers of requests, separated by commas")
    add("--tokens", type=int, default=64, help="of each answer")
    add("--threads", type=int, default=torch.get_num_threads())
    add("--json", type=Path, help="write the figures to this file")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
