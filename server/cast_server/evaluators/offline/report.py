"""What an evaluation found, for machines (JSON) and for people (Markdown, HTML)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cast_server.evaluators.offline.page import to_html
from cast_server.evaluators.registry import EVALUATORS

if TYPE_CHECKING:
    from cast_server.evaluators.offline.running import Done


def write_reports(done: Done, out: Path) -> list[Path]:
    """results.json, report.md and report.html; the paths of them."""
    document = to_document(done)
    table = rows(document)
    files = {
        "results.json": json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False),
        "report.md": to_markdown(document, table),
        "report.html": to_html(document, table),
    }
    for name, text in files.items():
        (out / name).write_text(text + "\n", encoding="utf-8")
    return [out / name for name in files]


def to_document(done: Done) -> dict[str, Any]:
    """Everything, with what makes it comparable."""
    job = done.job
    evaluator = EVALUATORS[job.evaluator]
    return {
        "evaluator": job.evaluator,
        "title": evaluator.title,
        "evaluator_version": job.version,
        "models": list(job.models),
        "fingerprints": [dict(one) for one in job.fingerprints],
        "params": dict(job.params),
        "status": str(job.status),
        "error": done.error,
        "seconds": None if job.finished_at is None else job.finished_at - job.created_at,
        "tokens": job.progress.tokens,
        "counts": asdict(job.counts),
        "warnings": done.warnings,
        **done.findings,
        "inputs": list(done.inputs),
        "items": [json.loads(item) for item in done.items],
    }


def rows(document: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Every number of the summary by its path, and the baseline's beside it."""
    ours = dict(_numbers(document.get("summary") or {}))
    theirs = dict(_numbers(document.get("baseline_summary") or {}))
    if not theirs:
        return list(ours.items())
    return [(path, ours.get(path, ""), theirs.get(path, "")) for path in {**ours, **theirs}]


def differences(document: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Paired by item, of a comparison: metric, pairs, mean, baseline's, difference, interval."""
    table: list[tuple[str, ...]] = []
    for name, one in (document.get("comparison") or {}).items():
        numbers = (one["mean"], one["baseline_mean"], one["difference"])
        low, high = one["interval"] or (None, None)
        between = "" if low is None else f"{_shown(low)} to {_shown(high)}"
        table.append((name, str(one["pairs"]), *map(_shown, numbers), between))
    return table


def to_markdown(document: Mapping[str, Any], table: list[tuple[str, ...]]) -> str:
    """The tables, after what they are of."""
    models = " against ".join(document["models"])
    parts = [f"# {document['title']}: {models}", sentence(document)]
    paired = differences(document)
    if paired:
        parts += ["## Differences, paired by item", _table(DIFFERENCES, paired)]
    heads = ("number", *document["models"])[: len(table[0])] if table else ()
    parts += ["## Summary", _table(heads, table) if table else "Nothing was measured."]
    origin = {name: document[name] for name in ("params", "fingerprints", "evaluator_version")}
    parts += ["## Where it comes from", f"```json\n{json.dumps(origin, indent=1)}\n```"]
    return "\n\n".join(parts)


DIFFERENCES = ("metric", "pairs", "model", "baseline", "difference", "95 % interval")


def sentence(document: Mapping[str, Any]) -> str:
    """How it went."""
    counts = document["counts"]
    text = (
        f"{document['status'].capitalize()}: {counts['ok']} items are fine, "
        f"{counts['undefined']} undefined, {counts['errored']} failed; "
        f"{document['tokens']} tokens."
    )
    return f"{text} {document['error']}" if document["error"] else text


def _table(head: tuple[str, ...], body: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _numbers(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Leaves that are numbers, an interval behind its number; lists by what their entries are
    called, or their place."""
    if isinstance(value, Mapping):
        middle = next((value[name] for name in _MIDDLES if name in value), None)
        if "low" in value and "high" in value:
            yield path, _between(middle, value["low"], value["high"])
            return
        for name, inner in value.items():
            if name not in _UNLISTED:
                yield from _numbers(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _numbers(inner, f"{path}[{_called(inner, place)}]")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, _shown(value)


_MIDDLES = ("mean", "value")
_UNLISTED = ("spectrum", "recipe", "layer")  # too long, or a name


def _between(middle: float | None, low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return _shown(middle)
    return f"{_shown(middle)} [{_shown(low)}, {_shown(high)}]"


def _called(entry: Any, place: int) -> Any:
    names = ("layer", "task", "arm", "depth", "code")
    if isinstance(entry, Mapping):
        parts = [str(entry[name]) for name in names if isinstance(entry.get(name), str | int)]
        return " ".join(parts) or place
    return place


def _shown(value: float | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.4g}"
