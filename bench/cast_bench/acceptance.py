"""How much of what is drafted is accepted: by question set, by depth and by source of the guess.

Acceptance length is the number of tokens a verification commits, the bonus token included. It says
nothing about time: that is what `compare` is for.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from cast_bench.prompts import chat_ids
from cast_bench.provenance import provenance
from cast_bench.workloads import questions
from cast_drafters.base import VerifyResult
from cast_drafters.coupling import STRENGTHS
from cast_server.build import build_core
from cast_server.config import EngineConfig
from cast_server.engine.core import EngineCore
from cast_server.engine.request import Request, SamplingParams, SpeculationParams
from cast_server.model_files import load_model, resolve_model


@dataclass
class Tally:
    """Counts over verifications. Depth 1 is the first drafted token; sources count from 0."""

    steps: int = 0
    drafted: int = 0
    accepted: int = 0
    tokens: int = 0
    reached: Counter[int] = field(default_factory=Counter)
    accepted_at: Counter[int] = field(default_factory=Counter)
    drafted_by: Counter[int] = field(default_factory=Counter)
    accepted_by: Counter[int] = field(default_factory=Counter)
    judged: list[tuple[float, bool]] = field(default_factory=list)

    def add(self, result: VerifyResult) -> None:
        tree, path = result.tree, result.accepted_nodes
        self.drafted += len(tree)
        self.accepted += len(path)
        deepest = int(tree.depths_T.max(initial=0))
        for depth in range(1, min(deepest, len(path) + 1) + 1):
            self.reached[depth] += 1
            self.accepted_at[depth] += depth <= len(path)
        self._judge(result)
        if tree.sources_T is not None:
            self.drafted_by.update(tree.sources_T.tolist())
            self.accepted_by.update(tree.sources_T[list(path)].tolist())

    def _judge(self, result: VerifyResult) -> None:
        """Children of accepted nodes: how likely they were said to be, and what came of it."""
        tree, path = result.tree, result.accepted_nodes
        parents = {-1, *path}
        for node, parent in enumerate(tree.parents_T.tolist()):
            if parent in parents:
                above = tree.log_probs_T[parent] if parent >= 0 else 0.0
                self.judged.append((math.exp(tree.log_probs_T[node] - above), node in path))

    def calibration(self) -> dict[str, float]:
        """Expected over actual acceptances, and the expected calibration error over ten bins."""
        bins: dict[int, list[tuple[float, bool]]] = {}
        for probability, came in self.judged:
            bins.setdefault(min(9, int(10 * probability)), []).append((probability, came))
        error = sum(abs(sum(p for p, _ in b) - sum(c for _, c in b)) for b in bins.values())
        actual = sum(came for _, came in self.judged)
        return {
            "expected_over_actual": round(sum(p for p, _ in self.judged) / max(1, actual), 4),
            "calibration_error": round(error / max(1, len(self.judged)), 4),
        }

    def summary(self) -> dict[str, Any]:
        return {
            "acceptance_length": 1 + self.accepted / max(1, self.steps),
            "steps": self.steps,
            "tokens": self.tokens,
            "drafted": self.drafted,
            "accepted": self.accepted,
            "acceptance_by_depth": [
                round(self.accepted_at[depth] / self.reached[depth], 4)
                for depth in sorted(self.reached)
            ],
            "accepted_by_source": dict(sorted(self.accepted_by.items())),
            "drafted_by_source": dict(sorted(self.drafted_by.items())),
            **self.calibration(),
        }


def main(argv: Sequence[str] | None = None) -> int:
    args = _parse(argv)
    torch.set_num_threads(args.threads)
    model, tokenizer = load_model(resolve_model(args.model), getattr(torch, args.dtype))
    config = EngineConfig(
        model=args.model,
        dtype=args.dtype,
        drafter=args.drafter,
        head=args.head,
        draft_sources=args.sources,
        kv_cache_tokens=32768,
        max_draft_rows=1024,
    )
    core = build_core(config, model, tokenizer)
    results: dict[str, Any] = {}
    for path in args.dataset:
        prompts = [chat_ids(tokenizer, text) for text in questions.read(path, args.num_questions)]
        results[path.stem] = run(core, prompts, args, path.stem).summary()
        print(f"{path.stem}: {json.dumps(results[path.stem])}", flush=True)
    lengths = [one["acceptance_length"] for one in results.values()]
    mean = sum(lengths) / len(lengths)
    print(f"mean acceptance length over {len(lengths)} sets: {mean:.3f}")
    coupling = getattr(core.drafter, "coupling", None)
    found = coupling.found()[:, :8].round(4).tolist() if coupling and args.temperature else None
    if found:
        print("choices of the target found among the first 1 to 8 candidates of the head:")
        for strength, shares in zip(STRENGTHS, found, strict=True):
            print(f"  noise at {strength:4.2f}: " + " ".join(f"{share:.3f}" for share in shares))
    if args.json:
        document: dict[str, Any] = {
            "provenance": provenance("cast_bench.acceptance", args),
            "mean_acceptance_length": mean,
            "sets": results,
        }
        if found:
            document["found_by_noise_strength"] = dict(zip(STRENGTHS, found, strict=True))
        args.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0


def run(
    core: EngineCore, prompts: Sequence[list[int]], args: argparse.Namespace, name: str
) -> Tally:
    """Answers all prompts, `args.concurrency` at a time."""
    tally = Tally()
    core.grown = None  # whose drafts the drafter is not told of
    observe = core.drafter.observe

    def watch(results: Sequence[VerifyResult]) -> None:
        for result in results:
            tally.add(result)
        observe(results)

    core.drafter.observe = watch  # type: ignore[method-assign]
    params = SamplingParams(max_tokens=args.output_len, temperature=args.temperature)
    waiting = list(enumerate(prompts))
    active = 0
    with tqdm(total=len(prompts), desc=name, unit="") as progress:
        while waiting or active:
            while waiting and active < args.concurrency:
                index, ids = waiting.pop(0)
                wish = SpeculationParams(args.policy)
                core.add(Request(f"{name}-{index}", tuple(ids), params, index, wish))
                active += 1
            for output in core.step():
                tally.tokens += len(output.new_token_ids)
                if output.finish_reason is not None:
                    tally.steps += output.speculation.num_spec_steps
                    active -= 1
                    progress.update(1)
    core.drafter.observe = observe  # type: ignore[method-assign]
    return tally


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="cast-bench acceptance", description=__doc__)
    add = parser.add_argument
    add("--dataset", type=Path, nargs="+", required=True, help="question files, JSON lines")
    add("--num-questions", type=int, default=20, help="of each file (default: 20)")
    add("--output-len", type=int, default=128, help="longest answer (default: 128)")
    add("--model", default="smollm2-135m-instruct")
    add("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    add("--drafter", default="eagle")
    add("--head", help="directory of the draft head (default: the shipped one)")
    add("--sources", default="text,store", help="free sources beside the head; '' for none")
    add("--policy", default="tree:16")
    add("--temperature", type=float, default=0.0)
    add("--concurrency", type=int, default=4)
    add("--threads", type=int, default=torch.get_num_threads())
    add("--json", type=Path, help="write the figures to this file")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
