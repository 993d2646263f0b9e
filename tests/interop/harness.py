"""Runs lm-evaluation-harness on small tasks of our own: `python harness.py plan.json results.json`.

A program of its own, as the harness warns, sets process-wide seeds and reads its settings from the
environment when it is imported. plan.json has `folder`, where the tasks' data is written, and
`runs`: name, model and model_args of each. Results are, by run and task, what was asked and found.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.api.registry import get_model
from lm_eval.tasks import TaskManager

QUESTIONS = [
    {"question": "The cat went into the", "choices": ["garden", "end", "stop"], "answer": 0},
    {"question": "A stop, another", "choices": ["stop", "Füchse", "cat and the dog"], "answer": 0},
    {"question": "The end of the", "choices": ["end", "猫は庭にいる"], "answer": 0},
    {"question": "Wer überquert Straßen?", "choices": ["Füchse", "🙂🙂"], "answer": 0},
]
SENTENCES = [
    {"text": "the cat found the other cat there and the dog", "last": " went"},
    {"text": "and then the end. The end of the", "last": " end!"},
    {"text": "Füchse überqueren Straßen; 猫は庭にいる。", "last": " 🙂🙂"},
]
TASKS: tuple[dict[str, Any], ...] = (
    {
        "task": "choices",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc"}],
    },
    {
        "task": "last_words",
        "output_type": "loglikelihood",
        "doc_to_text": "{{text}}",
        "doc_to_target": "{{last}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}, {"metric": "perplexity"}],
    },
    {
        "task": "whole_texts",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "word_perplexity"}],
    },
    {
        "task": "going_on",
        "output_type": "generate_until",
        "doc_to_text": "{{text}}",
        "doc_to_target": "{{last}}",
        "generation_kwargs": {"until": ["\n\n", "the dog"], "max_gen_toks": 12},
        "metric_list": [{"metric": "exact_match"}],
    },
)
DATA = {"choices": QUESTIONS, "last_words": SENTENCES, "whole_texts": SENTENCES}
DATA["going_on"] = SENTENCES


def main(plan_file: str, results_file: str) -> None:
    plan = json.loads(Path(plan_file).read_text())
    folder = Path(plan["folder"])
    manager = TaskManager(
        include_defaults=False
    )  # the thousands that it knows take seconds to list
    results = {}
    for run in plan["runs"]:
        arguments = run["model_args"] | {"batch_size": run.get("batch_size", 1)}
        model = get_model(run["model"]).create_from_arg_obj(arguments)
        tasks = manager.load([_task(folder, task) for task in TASKS])
        found = lm_eval.evaluate(model, tasks, bootstrap_iters=0)
        results[run["name"]] = {
            name: [
                {"asked": one["arguments"], "found": one["resps"]}
                for one in sorted(samples, key=lambda one: one["doc_id"])
            ]
            for name, samples in found["samples"].items()
        }
    Path(results_file).write_text(json.dumps(results))


def _task(folder: Path, task: dict[str, Any]) -> dict[str, Any]:
    name = task["task"]
    file = folder / f"{name}.json"
    file.write_text(json.dumps(DATA[name]))
    source = {"data_files": {"test": str(file)}, "cache_dir": str(folder / "cache")}
    where = {"dataset_path": "json", "dataset_kwargs": source, "test_split": "test"}
    return dict(task) | where


if __name__ == "__main__":
    main(*sys.argv[1:])
