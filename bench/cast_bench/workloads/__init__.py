"""What benchmarks ask a model: tasks that ship with castserve, files of questions, made-up tokens.

A workload is named by `--dataset`. To add one that ships, put `<name>.jsonl` beside this file and
its name into `TASKS`; a format of files is a reader and a line in `FORMATS`, and a kind of made-up
tokens a function and a line in `SYNTHETIC` (both in `loading.py`).
"""

from cast_bench.workloads.loading import (
    FORMATS,
    SYNTHETIC,
    TASKS,
    Prompt,
    Wish,
    in_turns,
    load,
    texts,
)

__all__ = ["FORMATS", "SYNTHETIC", "TASKS", "Prompt", "Wish", "in_turns", "load", "texts"]
