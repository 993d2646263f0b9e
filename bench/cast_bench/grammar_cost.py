"""What it costs to hold answers to a JSON schema, beside answers that are free, in turns.

One request at a time. Steps are plain decoding steps; the masks of the answer's positions are timed
by themselves afterwards. Then the same answer with each policy: its tokens must be the same.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch

from cast_bench.prompts import chat_ids
from cast_bench.provenance import provenance
from cast_server.build import build_core, prepare
from cast_server.config import EngineConfig
from cast_server.engine.core import EngineCore
from cast_server.engine.grammar import Grammar
from cast_server.engine.request import Request, SamplingParams, SpeculationParams
from cast_server.model_files import load_model, resolve_model

_PROMPT: Final = "Describe a hotel in Lisbon as JSON."
_SCHEMA: Final = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "description": {"type": "string", "maxLength": 200},
        "number_of_rooms": {"type": "integer", "minimum": 1, "maximum": 999},
        "has_breakfast_included": {"type": "boolean"},
        "facilities": {"type": "array", "items": {"enum": ["pool", "bar", "garden", "gym"]}},
        "opened_on": {"type": "string", "format": "date"},
    },
    "required": ["name", "description", "number_of_rooms", "has_breakfast_included", "opened_on"],
    "additionalProperties": False,
}


def main(argv: Sequence[str] | None = None) -> int:
    args = _parse(argv)
    torch.set_num_threads(args.threads)
    model, tokenizer = load_model(resolve_model(args.model), getattr(torch, args.dtype))
    config = EngineConfig(model=args.model, dtype=args.dtype, kv_cache_tokens=8192)
    core = build_core(config, model, tokenizer)
    prepare(core, config)
    prompt = chat_ids(tokenizer, _PROMPT)
    grammar = Grammar("json_schema", json.dumps(_SCHEMA))
    begin = time.perf_counter()
    core.grammars.check(grammar)
    print(f"tokenizer and schema: {time.perf_counter() - begin:.3f} s, once")
    held = SamplingParams(max_tokens=args.tokens, temperature=0.0, grammar=grammar)
    free = replace(held, grammar=None, ignore_eos=True)
    times: dict[str, list[float]] = {"free step": [], "held step": []}
    tokens: list[int] = []
    for _ in range(args.rounds):
        for name, params in (("free step", free), ("held step", held)):
            tokens, seconds = _run(core, prompt, params, "off")
            times[name] += seconds[1:]  # the first step reads the prompt
    times["mask"] = _masks(core, grammar, tokens)
    for name, values in times.items():
        low, middle, high = (1e3 * value for value in statistics.quantiles(values, n=4))
        print(f"{name}: {middle:.3f} ms (middle half {low:.3f} to {high:.3f})")
    for policy in ("off", *args.policies.split(",")):
        same, seconds = _run(core, prompt, held, policy)
        print(f"{policy}: {len(same)} tokens in {len(seconds)} steps, {sum(seconds):.2f} s")
        if same != tokens:
            print(f"{policy} gives other tokens; in float32 that is a bug")
    if args.json:
        document = {"provenance": provenance("cast_bench.grammar_cost", args), "seconds": times}
        args.json.write_text(json.dumps(document) + "\n")
    return 0


def _run(
    core: EngineCore, prompt: list[int], params: SamplingParams, policy: str
) -> tuple[list[int], list[float]]:
    """The tokens of one answer, and the seconds of its steps."""
    core.add(Request("timed", tuple(prompt), params, 0, SpeculationParams(policy)))
    tokens: list[int] = []
    seconds = []
    while core.has_work:
        begin = time.perf_counter()
        for output in core.step():
            tokens += output.new_token_ids
        seconds.append(time.perf_counter() - begin)
    return tokens, seconds


def _masks(core: EngineCore, grammar: Grammar, tokens: Sequence[int]) -> list[float]:
    """Seconds for what is allowed at each of an answer's positions, as the sampler asks."""
    state = core.grammars.begin(grammar)
    seconds = []
    for token_id in tokens:
        begin = time.perf_counter()
        state.allowed(())
        seconds.append(time.perf_counter() - begin)
        state.commit(token_id)
    return seconds


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="cast-bench grammar-cost", description=__doc__)
    add = parser.add_argument
    add("--model", default="smollm2-135m-instruct")
    add("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    add("--tokens", type=int, default=200, help="longest answer")
    add("--rounds", type=int, default=3)
    add("--policies", default="tree:16,cast")
    add("--threads", type=int, default=2)
    add("--json", type=Path, help="file for every time")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
