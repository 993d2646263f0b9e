"""The files of a run: written whenever a batch size has had its round, and read to go on.

What a killed run had of a round at one batch size is measured again. Every start has left its
provenance, as the code or the machine may have been others.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cast_bench.latency.figures import all_figures
from cast_bench.latency.iteration import Iteration
from cast_bench.latency.page import to_html
from cast_bench.latency.report import markdown
from cast_bench.latency.verdict import verdict
from cast_bench.provenance import other_arguments, provenance
from cast_server.errors import ConfigError

_MODULE: Final = "cast_bench.latency.cli"
# What is done with the iterations, and how many there are: it does not change what one is.
_FREE: Final = frozenset({"num_iters", "markdown", "html", "fail_under", "resume"})


@dataclass(slots=True)
class Document:
    """`starts` are the provenances of the runs that made the iterations, the present one last."""

    args: argparse.Namespace
    iterations: list[Iteration] = field(default_factory=list)
    starts: list[dict[str, Any]] = field(default_factory=list)
    no_energy: str = ""  # why there is none

    @property
    def missing(self) -> list[tuple[int, int]]:
        """(round, batch size), in the order in which they are to run."""
        done = {(one.round, one.batch_size) for one in self.iterations}
        pairs = [(n, size) for n in range(1, self.args.num_iters + 1) for size in self.sizes]
        return [pair for pair in pairs if pair not in done]

    @property
    def sizes(self) -> list[int]:
        sizes: list[int] = self.args.batch_size
        return sizes

    def begin(self) -> None:
        self.starts.append(provenance(_MODULE, self.args))

    @property
    def verdict(self) -> str:
        told = verdict(self.iterations, self.args.policy)
        return told if not self.missing else f"{told} (not all rounds have run yet)"

    def markdown(self) -> str:
        now = self.starts[-1]
        versions = [f"{name} {version}" for name, version in now["versions"].items() if version]
        origin = (
            f"{now['arguments']['model']}, {now['arguments']['dtype']}; {now['machine']}; "
            f"{now['date']}, commit {now['git'] or 'unknown'}"
            f"{' with changes' if now['git_dirty'] else ''}; {', '.join(versions)}."
        )
        if self.no_energy:
            origin += f" No energy: {self.no_energy}."
        figures = all_figures(self.iterations, self.args.policy)
        return markdown(figures, self.iterations, self.verdict, origin)

    def write(self) -> None:
        """Whatever files were asked for; never a half of one."""
        if self.args.json:
            _replace(self.args.json, json.dumps(self._facts()) + "\n")
        if self.args.markdown:
            _replace(self.args.markdown, self.markdown())
        if self.args.html:
            figures = all_figures(self.iterations, self.args.policy)
            text = to_html(figures, self.iterations, self.verdict, self.starts[-1])
            _replace(self.args.html, text)

    def _facts(self) -> dict[str, Any]:
        return {
            "provenance": self.starts[-1],
            "earlier_starts": self.starts[:-1],
            "verdict": self.verdict,
            "is_complete": not self.missing,
            "no_energy_because": self.no_energy or None,
            "cells": all_figures(self.iterations, self.args.policy),
            "iterations": [one.model_dump() for one in self.iterations],
        }


def resumed(args: argparse.Namespace) -> Document:
    """What `args.json` holds, or nothing yet. Raises `ConfigError` if it is of another run."""
    path: Path = args.json
    if not path.exists():
        return Document(args)
    try:
        read = json.loads(path.read_text())
        starts = [*read["earlier_starts"], read["provenance"]]
        records = [Iteration.model_validate(one) for one in read["iterations"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path.name} is no file of cast-bench latency: {error}") from error
    if told := other_arguments(read["provenance"], provenance(_MODULE, args), _FREE):
        raise ConfigError(f"{path.name} was measured with {told}; choose another --output-json.")
    return Document(args, records, starts, read["no_energy_because"] or "")


def _replace(path: Path, text: str) -> None:
    scratch = path.with_name(f"{path.name}.new")
    scratch.write_text(text)
    scratch.replace(path)
