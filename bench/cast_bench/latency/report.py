"""The figures as Markdown, and the rows that the page has too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from cast_bench.latency.figures import Figures
from cast_bench.latency.iteration import Iteration

_SHOWN: Final = 20  # differences; the JSON file has them all

HEAD: Final = (
    "batch",
    "policy",
    "tokens/s",
    "times off",
    "whole batch, times off",
    "decoding, times off",
    "latency, s",
    "TTFT, ms",
    "TPOT, ms",
    "ITL p99, ms",
    "accepted + 1",
    "draft/verify/host, %",
    "predicted/actual",
    "J/token",
    "identical",
)

NOTES: Final = """\
Batches begin together and end with their last token; every round asks the next prompts, of all
policies in turns. "times off" is of the latency of the mean request, prefill and all; "whole batch"
of its last request: under `off` all end together, under a policy that is faster for one text than
for another the slowest waits for the drafts of all, and then in a smaller batch, whose steps bring
less. "decoding" is of the steps that only decode before a request has ended. Ratios are medians
over rounds, paired by round, with the 95 % interval of a bootstrap over rounds (fewer than five
make it too narrow). TTFT and TPOT are medians over requests, ITL is of tokens: one of n that a step
brings counts with the n-th part of the wait. "draft/verify/host" are shares of decoding steps."""


def markdown(
    figures: Sequence[Figures], iterations: Sequence[Iteration], told: str, origin: str
) -> str:
    """`told` is the verdict; `origin` is one line on where the figures come from."""
    lines = [told, "", f"| {' | '.join(HEAD)} |", "|" + "---|" * len(HEAD)]
    lines += [f"| {' | '.join(row(one))} |" for one in figures]
    lines += ["", NOTES]
    if some := list(differences(iterations)):
        lines += ["", *(f"- {one}" for one in some)]
    return "\n".join([*lines, "", origin]) + "\n"


def row(one: Figures) -> list[str]:
    """The cells of a table's row, under `HEAD`."""
    shares = one["step_shares"]
    return [
        str(one["batch_size"]),
        one["policy"],
        f"{one['tokens_per_second']:.1f}",
        _ratio(one["times_off"]),
        _ratio(one["batch_times_off"]),
        _ratio(one["decode_times_off"]),
        f"{one['avg_latency']:.2f}",
        _number(one["median_ttft_ms"], 1),
        _number(one["median_tpot_ms"], 2),
        _number(one["p99_itl_ms"], 2),
        _number(one["acceptance_length"], 2),
        "/".join(f"{100 * share:.0f}" for share in shares.values()) if shares else "",
        _number(one["predicted_over_actual"], 2),
        _number(one["joules_per_token"], 3),
        _identity(one),
    ]


def differences(iterations: Sequence[Iteration]) -> Iterator[str]:
    """A line each: the first of them, bugs before all others."""
    found = [(some, one) for some in iterations for one in some.differences]
    found.sort(key=lambda pair: pair[1].verdict != "bug")
    for some, one in found[:_SHOWN]:
        margin = "" if one.margin is None else f", margin {one.margin:.4f}"
        yield (
            f"{some.policy} at {some.batch_size}, round {some.round}, prompt {one.prompt}, token "
            f"{one.position}: {one.token}, not {one.plain_token}{margin}: {one.verdict}"
        )
    if len(found) > _SHOWN:
        yield f"and {len(found) - _SHOWN} more"


def _ratio(one: dict[str, float | None]) -> str:
    if one["median"] is None:
        return ""
    return f"{one['median']:.2f} [{one['low']:.2f}, {one['high']:.2f}]"


def _number(value: Any, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _identity(one: Figures) -> str:
    if one["token_identical"]:
        return "yes"
    names = ("near_ties", "bugs", "not_judged")
    told = [f"{one[name]} {name.replace('_', ' ')}" for name in names if one[name]]
    return f"no: {', '.join(told)} of {one['outputs']}"
