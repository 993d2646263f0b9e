"""Does speculation change a token? Runs prompts with and without it and explains each difference.

In float32 outputs are equal. In bfloat16 a step of more rows can round a logit otherwise, and two
tokens within that rounding may swap: such a near tie is listed with both log-probabilities and
the margin between them. A difference with a larger margin is a bug, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import torch
from tqdm import tqdm

from cast_bench.prompts import PROMPTS, chat_ids
from cast_bench.provenance import provenance
from cast_server.build import build_core
from cast_server.config import EngineConfig
from cast_server.engine.core import EngineCore
from cast_server.engine.request import MAX_LOGPROBS, Request, SamplingParams, SpeculationParams
from cast_server.model_files import load_model, resolve_model

# Largest margin of a near tie. bfloat16: by how much it moves margins, see `cast_bench.rounding`
# and docs/benchmarks.md.
TOLERANCE: Final = {"float32": 1e-3, "bfloat16": 0.25}


@dataclass(frozen=True, slots=True)
class Difference:
    """The first position at which two greedy outputs part.

    Log-probabilities are the engine's own, of a prefill over the common beginning.
    """

    prompt: int
    position: int
    plain_token: int
    speculated_token: int
    plain_logprob: float
    speculated_logprob: float

    @property
    def margin(self) -> float:
        return abs(self.plain_logprob - self.speculated_logprob)


def main(argv: Sequence[str] | None = None) -> int:
    args = _parse(argv)
    torch.set_num_threads(args.threads)
    dtype = getattr(torch, args.dtype)
    model, tokenizer = load_model(resolve_model(args.model), dtype)
    config = EngineConfig(
        model=args.model,
        dtype=args.dtype,
        kv_cache_tokens=16384,
        max_draft_rows=args.max_draft_rows,
    )
    core = build_core(config, model, tokenizer)
    prompts = [chat_ids(tokenizer, PROMPTS[i % len(PROMPTS)]) for i in range(args.num_prompts)]
    plain = generate(core, prompts, "off", args)
    speculated = generate(core, prompts, args.policy, args)
    found = [
        explain(core, index, prompts[index], one, two)
        for index, (one, two) in enumerate(zip(plain, speculated, strict=True))
        if one != two
    ]
    return _report(found, plain, args)


def generate(
    core: EngineCore, prompts: Sequence[list[int]], policy: str, args: argparse.Namespace
) -> list[list[int]]:
    """Greedy outputs, `args.concurrency` requests at a time."""
    params = SamplingParams(max_tokens=args.output_len, temperature=0.0)
    outputs: list[list[int]] = [[] for _ in prompts]
    waiting = list(range(len(prompts)))
    active = 0
    with tqdm(total=len(prompts), desc=policy) as progress:
        while waiting or active:
            while waiting and active < args.concurrency:
                index = waiting.pop(0)
                ids = tuple(prompts[index])
                core.add(Request(str(index), ids, params, index, SpeculationParams(policy)))
                active += 1
            for output in core.step():
                outputs[int(output.request_id)] += output.new_token_ids
                active -= output.finish_reason is not None
                progress.update(output.finish_reason is not None)
    return outputs


def explain(
    core: EngineCore, index: int, prompt: list[int], plain: list[int], speculated: list[int]
) -> Difference:
    """Raises `AssertionError` if one output only stops earlier: no rounding does that."""
    pairs = enumerate(zip(plain, speculated, strict=False))
    position = next((i for i, (one, two) in pairs if one != two), None)
    assert position is not None, f"prompt {index}: {len(plain)} against {len(speculated)} tokens"
    params = SamplingParams(max_tokens=1, temperature=0.0, logprobs=MAX_LOGPROBS)
    ids = tuple(prompt + plain[:position])
    core.add(Request("explain", ids, params, index, SpeculationParams("off")))
    outputs = [output for _ in iter(lambda: core.has_work, False) for output in core.step()]
    logprobs = dict(outputs[-1].logprobs[0].top)
    one, two = plain[position], speculated[position]
    values = (logprobs.get(token_id, -math.inf) for token_id in (one, two))
    return Difference(index, position, one, two, *values)


def _report(found: list[Difference], plain: list[list[int]], args: argparse.Namespace) -> int:
    tolerance = TOLERANCE[args.dtype] if args.tolerance is None else args.tolerance
    bugs = [one for one in found if one.margin > tolerance]
    for one in found:
        verdict = "BUG" if one in bugs else "near tie"
        print(
            f"prompt {one.prompt}, token {one.position}: "
            f"{one.plain_token} ({one.plain_logprob:.4f}) or "
            f"{one.speculated_token} ({one.speculated_logprob:.4f}), "
            f"margin {one.margin:.4f}: {verdict}"
        )
    tokens = sum(map(len, plain))
    print(
        f"{args.policy} in {args.dtype}: {len(plain) - len(found)} of {len(plain)} outputs "
        f"identical, {len(found) - len(bugs)} near ties, {len(bugs)} bugs in {tokens} tokens"
    )
    if args.json:
        differences = [asdict(one) | {"margin": one.margin} for one in found]
        document = {"provenance": provenance("cast_bench.lossless", args), "tokens": tokens}
        args.json.write_text(json.dumps(document | {"differences": differences}, indent=1) + "\n")
    return 1 if bugs else 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="cast-bench lossless", description=__doc__)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--dtype", choices=tuple(TOLERANCE), default="bfloat16")
    parser.add_argument("--policy", default="tree:7", help="compared with off")
    parser.add_argument("--num-prompts", type=int, default=24)
    parser.add_argument("--output-len", type=int, default=128)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--max-draft-rows", type=int, default=64)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--tolerance", type=float, help="largest margin of a near tie")
    parser.add_argument("--json", type=Path, help="write the differences to this file")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
