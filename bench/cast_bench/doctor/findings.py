"""What a doctor finds: said as it is found, and kept for the report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Findings:
    """`entries` go into the report as they are. `wrong`: what is not right, and how."""

    entries: dict[str, Any] = field(default_factory=dict)
    right: dict[str, str] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def check(self, name: str, look: Callable[[], str]) -> None:
        """`look` says what it found right, or raises. Whatever that is, it is a finding, and must
        not keep the rest from being looked at."""
        try:
            said = look()
        except Exception as error:  # noqa: BLE001 - a kernel that does not compile, anything
            self.wrong[name] = said = f"{type(error).__name__}: {error}"
        else:
            self.right[name] = said
        print(f"  {'WRONG' if name in self.wrong else 'ok   '} {name}: {said}", flush=True)

    def leave_out(self, name: str, reason: str) -> None:
        self.left_out[name] = reason
        print(f"  left out: {name}. {reason}")

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return self.entries | {
            "right": self.right,
            "wrong": self.wrong,
            "left_out": self.left_out,
        }
