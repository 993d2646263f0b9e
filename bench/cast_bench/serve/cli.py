"""Load over HTTP on any OpenAI-compatible server: throughput, latencies, goodput, failures.

Open loop: --request-rate sends by the clock, as a Poisson process or in bursts. Closed loop:
--max-concurrency sends as places get free. Several values of either are measured in turn, together
in all combinations. Every answer is streamed. TTFT is the time to the first token, TPOT the time
per output token behind it, ITL the time between tokens (where several come in one chunk, and the
server tells how many, they share its time), ICL between chunks, E2EL until the end of the answer.

Failed requests are counted by name and are in no throughput or latency. The exit status is 1 if
there are more than --max-failures, or fewer within --goodput than --fail-under; it is 130 after
Ctrl-C, which ends the run with what has come by then.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import re
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cast_bench.serve.objectives import objective
from cast_bench.workloads import TASKS
from cast_server.errors import ConfigError

if TYPE_CHECKING:
    from cast_bench.serve.load import Load, Run

_EXAMPLES: Final = """\
examples:
  cast-bench serve                                    castserve on port 8000, all at once
  cast-bench serve --max-concurrency 1 2 4 8          a sweep, closed loop
  cast-bench serve --request-rate 0.5 1 2 --goodput ttft:500 tpot:50 --fail-under 0.9
  cast-bench serve --extra-body '{"speculation": {"policy": "off"}}'    castserve without drafts
  cast-bench serve --extra-body '{"timings_per_token": true}'           counts tokens of llama.cpp
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Raises `ConfigError` for a wrong setting and where no server answers."""
    args = _parse(argv)
    _check(args)
    if find_spec("httpx2") is None:
        raise ConfigError("httpx2 is missing: pip install httpx2.")
    from cast_bench.serve.report import markdown, verdict

    points = asyncio.run(_measure(args))
    text = markdown(points)
    print(f"\n{text}\n\n{verdict(points)}")
    if args.markdown:
        args.markdown.write_text(f"{text}\n\n{verdict(points)}\n")
    if points[-1]["interrupted"]:
        return 130
    return 1 if _misses(points, args) else 0


async def _measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The figures of each point, up to one that is interrupted; written as they come."""
    from cast_bench.serve import client, load, metrics, workload

    prompts = workload.prompts_of([str(name) for name in args.dataset], args.seed)
    points: list[dict[str, Any]] = []
    async with client.open_client(args.base_url, args.api_key) as http:
        args.model = args.model or await client.served_model(http)
        asking = client.Asking(args.endpoint, _body(args), args.seed, args.timeout)
        skip = await client.warm_up(http, asking, workload.questions(prompts, args.num_warmups, 0))
        for point in _loads(args):
            questions = workload.questions(prompts, args.num_prompts, skip)
            skip += args.num_prompts
            run = await load.run_load(http, asking, point, questions)
            points.append(metrics.figures(run, dict(args.goodput)))
            _save(points, run, args)
            if run.interrupted:
                break
    return points


def _loads(args: argparse.Namespace) -> list[Load]:
    from cast_bench.serve.load import Load

    pairs = product(args.request_rate, args.max_concurrency or [None])
    return [Load(rate, limit, args.burstiness, args.seed) for rate, limit in pairs]


def _body(args: argparse.Namespace) -> dict[str, Any]:
    usage = {"include_usage": True}
    if not args.plain_usage:
        usage["continuous_usage_stats"] = True
    body: dict[str, Any] = {
        "model": args.model,
        "max_tokens": args.output_len,
        "temperature": args.temperature,
        "stream": True,
        "stream_options": usage,
    }
    if args.ignore_eos:
        body["ignore_eos"] = True
    body.update(args.extra_body)
    return body


def _save(points: list[dict[str, Any]], run: Run, args: argparse.Namespace) -> None:
    from cast_bench.provenance import provenance  # torch: not before the load has been
    from cast_bench.serve.report import detailed

    if args.save_detailed:
        points[-1]["requests"] = detailed(run.answers)
    if args.json:
        origin = provenance("cast_bench.serve.cli", _public(args))
        document = {"provenance": origin, "points": points}
        args.json.write_text(json.dumps(document, indent=1) + "\n")


def _public(args: argparse.Namespace) -> argparse.Namespace:
    """The flags without secrets, and without an infinity, which JSON does not know."""
    told = {name: value for name, value in vars(args).items() if name != "api_key"}
    told["base_url"] = re.sub(r"//[^/@]*@", "//", args.base_url)
    told["request_rate"] = ["inf" if math.isinf(rate) else rate for rate in args.request_rate]
    return argparse.Namespace(**told)


def _misses(points: Sequence[dict[str, Any]], args: argparse.Namespace) -> list[str]:
    """Gates that are not held, each told on stderr."""
    told = []
    failed = sum(point["failed"] for point in points)
    if failed > args.max_failures:
        told.append(f"{failed} requests failed, more than --max-failures {args.max_failures}")
    if args.fail_under is not None:
        shares = [point["good_share"] for point in points]
        least = f"less than --fail-under {args.fail_under:g}"
        told += [f"{one:.1%} within --goodput, {least}" for one in shares if one < args.fail_under]
    for miss in told:
        print(f"cast-bench serve: {miss}.", file=sys.stderr)
    return told


def _check(args: argparse.Namespace) -> None:
    if args.fail_under is not None and not args.goodput:
        raise ConfigError("--fail-under needs --goodput: it is the share of requests within it.")
    if args.save_detailed and not args.json:
        raise ConfigError("--save-detailed needs --json: that is the file it writes to.")
    if args.fail_under is not None and not 0 <= args.fail_under <= 1:
        raise ConfigError(f"--fail-under {args.fail_under:g}: a share is between 0 and 1.")


def _rate(word: str) -> float:
    value = float(word)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{word} is not above 0")
    return value


def _positive(word: str) -> float:
    value = _rate(word)
    if math.isinf(value):
        raise argparse.ArgumentTypeError(f"{word} is not finite")
    return value


def _whole(word: str) -> int:
    value = int(word)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{word} is less than 0")
    return value


def _count(word: str) -> int:
    value = int(word)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{word} is less than 1")
    return value


def _json_object(word: str) -> dict[str, Any]:
    try:
        value = json.loads(word)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{word!r} is no JSON object")
    return value


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="cast-bench serve",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_server(parser)
    _add_load(parser)
    _add_report(parser)
    return parser.parse_args(argv)


def _add_server(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("the server").add_argument
    add("--base-url", default="http://127.0.0.1:8000", help="default: %(default)s")
    add("--model", help="default: the first that the server lists")
    add(
        "--api-key",
        default=os.environ.get("OPENAI_API_KEY"),
        help="default: $OPENAI_API_KEY; is never written anywhere",
    )
    add("--endpoint", choices=("chat", "completions"), default="chat", help="default: chat")
    add("--timeout", type=_positive, default=600.0, help="seconds for one answer (default: 600)")
    add("--extra-body", type=_json_object, default={}, metavar="JSON", help="added to each request")
    add("--plain-usage", action="store_true", help="for servers that refuse continuous_usage_stats")


def _add_load(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("the load").add_argument
    rates = "requests a second, or inf (the default)"
    add("--request-rate", type=_rate, nargs="+", default=[math.inf], metavar="R", help=rates)
    gamma = "shape of the times between requests: 1 is Poisson, less comes in bursts (default: 1)"
    add("--burstiness", type=_positive, default=1.0, metavar="SHAPE", help=gamma)
    limit = "requests at most at a time (default: no limit)"
    add("--max-concurrency", type=_count, nargs="+", metavar="N", help=limit)
    add("--num-prompts", type=_count, default=32, help="at each point (default: 32)")
    add("--num-warmups", type=_whole, default=1, help="requests before, not counted (default: 1)")
    asked = f"of {', '.join(TASKS)} (default: all); .jsonl questions, .json of ShareGPT's form"
    add("--dataset", type=Path, nargs="+", default=[Path(task) for task in TASKS], help=asked)
    add("--output-len", type=_count, default=128, help="longest answer in tokens (default: 128)")
    add("--ignore-eos", action="store_true", help="every answer that long, where servers know it")
    add("--temperature", type=float, default=0.0, help="default: 0")
    add("--seed", type=int, default=0, help="of prompts, arrivals and sampling (default: 0)")


def _add_report(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("the report").add_argument
    slo = "objectives in milliseconds: ttft:500 tpot:50 e2el:9000"
    add("--goodput", type=objective, nargs="+", default=[], metavar="NAME:MS", help=slo)
    share = "share of requests that must be within --goodput, of each point"
    add("--fail-under", type=float, metavar="SHARE", help=share)
    add("--max-failures", type=_whole, default=0, metavar="N", help="default: 0")
    add("--json", type=Path, metavar="FILE", help="write every figure to this file")
    add("--save-detailed", action="store_true", help="and every request, with times of its chunks")
    add("--markdown", type=Path, metavar="FILE", help="write the tables to this file")


if __name__ == "__main__":
    sys.exit(main())
