"""The `cast-train` command: a draft head for your own model, from nothing but the model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from cast_server.errors import CastError
from cast_server.training.pipeline import Pipeline, Recipe
from cast_server.training.report import check_plots
from cast_server.training.trainer import TrainingSettings

_INTRO = """\
Trains an EAGLE-3 draft head, and an n-gram store beside it, for a model that has none.

The model writes prompts (or takes yours) and answers them; the head learns to foresee the answers.
Kill it whenever you like: the same command goes on where it stopped."""

_EXAMPLES = """\
examples:
  cast-train --out heads/mine --model ./my-model            everything by itself
  cast-train --out heads/mine --model ./my-model --prompts questions.jsonl
  cast-train --out heads/mine --steps 2000                  go on, further than before
  cast-train --out heads/next --start heads/mine/head --prompts mine.jsonl
                                                            a head that learns your prompts too
  cast-serve --model ./my-model --drafter eagle --head heads/mine/head
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 2 for a wrong setting, 130 when interrupted."""
    args = _parse(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    settings = TrainingSettings(
        num_steps=args.steps,
        depth=args.depth,
        batch_tokens=args.batch_tokens,
        learning_rate=args.learning_rate,
        on_policy_steps=min(args.on_policy_steps, args.steps),
        seed=args.seed,
    )
    recipe = Recipe(
        model=args.model,
        conversations=args.conversations,
        answer_tokens=args.answer_tokens,
        draft_vocab_size=args.draft_vocab_size,
        layer_ids=tuple(args.layer_ids) if args.layer_ids else None,
        prompts=str(args.prompts) if args.prompts else None,
        corpora=tuple(str(path) for path in args.corpus),
        start=str(args.start) if args.start else None,
        settings=settings,
    )
    try:
        if "publish" in args.stages:
            check_plots()
        pipeline = Pipeline(recipe, args.out)
        if "make" in args.stages:
            pipeline.make(args.concurrency)
        if "learn" in args.stages:
            pipeline.learn()
        if "publish" in args.stages:
            print(f"The head is in {pipeline.publish()}: cast-serve --drafter eagle --head …")
    except (CastError, ValueError) as error:
        print(f"cast-train: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("cast-train: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="cast-train",
        description=_INTRO,
        epilog=_EXAMPLES,
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, max_help_position=32),
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="directory for everything that is made")
    add("--model", default="smollm2-135m-instruct", help="built-in name, directory or .gguf file")
    add("--prompts", type=Path, help='JSON lines with "prompt" or "messages", instead of its own')
    add(
        "--corpus",
        type=Path,
        nargs="+",
        default=[],
        help="conversations that the model wrote before (a corpus.jsonl, gzipped or not): they "
        "are only read again",
    )
    add("--start", type=Path, help="directory of a head to go on from, instead of a new one")
    add("--conversations", type=int, default=4000, help="how many to make (default: 4000)")
    add("--answer-tokens", type=int, default=192, help="longest answer (default: 192)")
    add("--concurrency", type=int, default=64, help="answers written side by side (default: 64)")
    add("--steps", type=int, default=1000, help="optimizer steps (default: 1000)")
    add("--batch-tokens", type=int, default=3000, help="tokens a step (default: 3000)")
    add("--depth", type=int, default=4, help="steps unrolled (default: 4)")
    add("--learning-rate", type=float, default=1e-3, help="peak (default: 0.001)")
    add(
        "--on-policy-steps",
        type=int,
        default=100,
        help="of the steps, the last ones also learn from the head's own drafts (default: 100)",
    )
    add("--draft-vocab-size", type=int, default=8192, help="tokens it can draft (default: 8192)")
    add("--layer-ids", type=int, nargs=3, help="target layers to read (default: 2, L/2, L-3)")
    add("--seed", type=int, default=0)
    add("--threads", type=int, help="CPU threads (default: torch's choice)")
    add(
        "--stages",
        nargs="+",
        choices=("make", "learn", "publish"),
        default=("make", "learn", "publish"),
        help="only these; learning may go on while more is being made (default: all)",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
