"""What `cast-serve --check` has found, for people and for machines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal

from cast_server.memory_plan import MemoryPlan, size_text


@dataclass(frozen=True, slots=True)
class Finding:
    """`verdict`: "wrong" keeps the server from starting, "note" is worth knowing."""

    subject: str
    verdict: Literal["ok", "note", "wrong"]
    text: str


@dataclass(frozen=True, slots=True)
class Report:
    """`plan` is None where something keeps it from being made."""

    findings: tuple[Finding, ...]
    plan: MemoryPlan | None

    @property
    def is_fine(self) -> bool:
        return all(one.verdict != "wrong" for one in self.findings)

    def to_text(self) -> str:
        lines = [f"{one.verdict:<6}{one.subject:<11}{one.text}" for one in self.findings]
        if self.plan is not None:
            lines += ["", *_plan_lines(self.plan)]
        count = sum(one.verdict == "wrong" for one in self.findings)
        verdict = "This can be served." if self.is_fine else f"Cannot be served: {count} wrong."
        return "\n".join([*lines, "", verdict])

    def to_json(self) -> str:
        document = {
            "ok": self.is_fine,
            "findings": [asdict(one) for one in self.findings],
            "memory": None if self.plan is None else _plan_document(self.plan),
        }
        return json.dumps(document, indent=2, ensure_ascii=False)


def _plan_lines(plan: MemoryPlan) -> Iterator[str]:
    memory = plan.memory
    known = "" if memory.is_known else ", a guess, as nobody tells"
    yield f"Memory, of {size_text(memory.free)} free ({size_text(memory.total)} in all{known}):"
    for item in plan.items:
        yield f"  {size_text(item.num_bytes):>14}  {item.name:<17}{item.text}"
    yield f"  {size_text(plan.total):>14}  {'all':<17}{_share(plan, plan.total)} of what is free"
    if memory.resident:
        yield f"  {size_text(memory.resident):>14}  {'taken before':<17}by Python and its libraries"


def _plan_document(plan: MemoryPlan) -> dict[str, object]:
    memory = plan.memory
    items = [{"name": x.name, "bytes": x.num_bytes, "text": x.text} for x in plan.items]
    return {
        "items": items,
        "total_bytes": plan.total,
        "free_bytes": memory.free if memory.is_known else None,
        "machine_bytes": memory.total if memory.is_known else None,
        "resident_bytes": memory.resident,
        "kv_cache_tokens": plan.kv_tokens,
        "kv_bytes_per_token": plan.kv_token_bytes,
    }


def _share(plan: MemoryPlan, part: int) -> str:
    return f"{part / max(1, plan.memory.free):.0%}"
