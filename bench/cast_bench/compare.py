"""castserve beside transformers and llama.cpp: same weights, same threads, same prompts, in turns.

Each side runs in a process of its own, loads once and then works only when it is its turn, so that
a machine whose speed drifts treats all alike. The output is Markdown on the screen and, with
`--json`, every single measurement with its provenance.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from tqdm import tqdm

from cast_bench.provenance import provenance

SIDES: Final = (
    "castserve-off",
    "castserve-ngram",
    "castserve-eagle",
    "transformers",
    "transformers-lookup",
    "llama.cpp",
    "llama.cpp-ngram",
)


@dataclass(frozen=True, slots=True)
class Run:
    """One turn of one side: `tokens` generated for `concurrency` requests in `seconds`."""

    side: str
    concurrency: int
    round: int
    tokens: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


class Side:
    """A worker process, waiting for its turn."""

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        self.name = name
        command = [sys.executable, "-m", "cast_bench.compare_worker", name]
        command += ["--dtype", args.dtype, "--output-len", str(args.output_len)]
        command += ["--threads", str(args.threads), "--slots", str(max(args.concurrency))]
        env = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )
        self._answer()

    def run(self, concurrency: int, round_index: int) -> Run:
        assert self._process.stdin is not None
        print(concurrency, round_index, file=self._process.stdin, flush=True)
        answer = self._answer()
        return Run(self.name, concurrency, round_index, int(answer["tokens"]), answer["seconds"])

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()

    def _answer(self) -> dict[str, float]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):  # everything else is a library talking
                answer: dict[str, float] = json.loads(line)
                return answer
        raise SystemExit(f"{self.name} ended early; its messages are above.")


def main(argv: Sequence[str] | None = None) -> int:
    args = _parse(argv)
    sides = [Side(name, args) for name in tqdm(args.sides, desc="loading")]
    runs: list[Run] = []
    try:
        for round_index in tqdm(range(-args.warmup, args.rounds), desc="rounds"):
            for concurrency in args.concurrency:
                turns = [side.run(concurrency, round_index) for side in sides]
                runs += turns if round_index >= 0 else []
            _save(runs, args)  # what is measured is kept, even if the next round never ends
    finally:
        for side in sides:
            side.close()
    print(report(runs, baseline=args.sides[0]))
    return 0


def _save(runs: Sequence[Run], args: argparse.Namespace) -> None:
    if args.json:
        document = {
            "provenance": provenance("cast_bench.compare", args),
            "runs": [asdict(run) for run in runs],
        }
        args.json.write_text(json.dumps(document, indent=1) + "\n")


def report(runs: Sequence[Run], baseline: str) -> str:
    """Markdown: median (lowest to highest) tokens/s, and the median of the round-by-round ratio."""
    lines = [
        f"| requests | side | tokens/s | {baseline} is faster by |",
        "|---|---|---|---|",
    ]
    for concurrency in sorted({run.concurrency for run in runs}):
        here = [run for run in runs if run.concurrency == concurrency]
        speeds = {
            side: [run.tokens_per_second for run in here if run.side == side]
            for side in dict.fromkeys(run.side for run in here)
        }
        for side, values in speeds.items():
            ratios = [a / b for a, b in zip(speeds[baseline], values, strict=True)]
            lines.append(
                f"| {concurrency} | {side} | {_spread(values, 1)} | {_spread(ratios, 2)} |"
            )
    return "\n".join(lines)


def _spread(values: Sequence[float], digits: int) -> str:
    low, high = min(values), max(values)
    return f"{statistics.median(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="cast-bench compare", description=__doc__)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--concurrency", nargs="+", type=int, default=[1, 8], metavar="N")
    parser.add_argument("--rounds", type=int, default=5, help="counted turns of each side")
    parser.add_argument("--warmup", type=int, default=1, help="turns before the count")
    parser.add_argument("--output-len", type=int, default=96, help="new tokens per request")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--json", type=Path, help="write every measurement to this file")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
