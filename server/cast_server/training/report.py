"""What a training run tells its users: curves to look at and a card to read."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cast_drafters.eagle.config import HeadConfig
from cast_server.errors import ConfigError
from cast_server.training.corpus import Conversation

if TYPE_CHECKING:
    from cast_server.training.pipeline import Recipe


def check_plots() -> None:
    """Raises `ConfigError` where curves cannot be drawn, before hours are spent."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("Curves need matplotlib: `pip install 'castserve[plots]'`.")


def write_curves(history: dict[str, Any], path: Path) -> None:
    """Loss, and agreement with the target by depth, over the tokens trained on."""
    from matplotlib.figure import Figure

    labels = [0]
    for entry in history["steps"]:
        labels.append(labels[-1] + entry["labels"])
    figure = Figure(figsize=(10, 4), layout="constrained")
    loss_axes, agreement_axes = figure.subplots(1, 2)
    loss_axes.plot(labels[1:], [entry["loss"] for entry in history["steps"]], lw=0.6, color="0.6")
    looks = history["held_out"]
    seen = [labels[look["step"]] for look in looks]
    for depth in range(len(looks[0]["loss"]) if looks else 0):
        name = f"depth {depth + 1}"
        loss_axes.plot(seen, [look["loss"][depth] for look in looks], label=name)
        agreement_axes.plot(seen, [look["agreement"][depth] for look in looks], label=name)
    loss_axes.set(xlabel="tokens trained on", ylabel="cross-entropy (grey: training)")
    agreement_axes.set(xlabel="tokens trained on", ylabel="agreement with the target, held out")
    if looks:
        agreement_axes.legend()
    figure.savefig(path, dpi=100)


def write_card(
    recipe: Recipe,
    config: HeadConfig,
    conversations: Sequence[Conversation],
    history: dict[str, Any],
    path: Path,
) -> None:
    """The card: what the head is, what it was made of, how good it is on text it never saw."""
    tasks = Counter(one.task for one in conversations)
    answers = sum(len(one.answer) for one in conversations)
    labels = sum(entry["labels"] for entry in history["steps"])
    settings = recipe.settings
    made_by = f"answers to {recipe.prompts}" if recipe.prompts else "user turns and answers alike"
    path.write_text(f"""\
# EAGLE-3 head for {recipe.model}

One decoder layer of {config.hidden_size} units. It reads the target's residual stream at the input
of layers {_list(config.layer_ids)} and drafts from a vocabulary of {config.draft_vocab_size}
tokens. Beside it: `ngrams.store`, n-gram counts of the same conversations, and `pool.json`, how far
to believe head, text so far and store.

## Data

{len(conversations)} conversations ({_list(f"{n} {task}" for task, n in tasks.items())}) with
{answers} answer tokens, {made_by} written by the target itself. The head learnt from the
{history["epochs"][-1] if history["epochs"] else 0} whose hidden states were kept (the last epoch's
number below, held-out ones included), the store from all. One conversation in 32 was held out from
both. No public question set was used.

## Training

{len(history["steps"])} optimizer steps of about {settings.batch_tokens} tokens, {labels} labels in
all, unrolled {settings.depth} deep (weight {settings.depth_weight} a level), AdamW, peak rate
{settings.learning_rate}, seed {settings.seed}, bfloat16 arithmetic, the last
{settings.on_policy_steps} steps on the head's own drafts too. Each epoch took in the corpus as far
as it had grown: {_list(history["epochs"])} conversations.

    cast-train --out DIR --model {recipe.model} --steps {settings.num_steps} \\
        --learning-rate {settings.learning_rate} --draft-vocab-size {recipe.draft_vocab_size} \\
        --on-policy-steps {settings.on_policy_steps} --answer-tokens {recipe.answer_tokens} \\
        --conversations {recipe.conversations}{_flag(recipe)}

![curves](curves.png)

## On text that it never saw

{_looks(history, labels)}

## The n-gram store

| tokens it was made of | megabytes | top-1 | top-4 | top-8 |
|---|---|---|---|---|
{_store_rows(history)}

Shares are of held-out answer tokens.
""")


def _list(items: Iterable[object]) -> str:
    return ", ".join(map(str, items))


def _flag(recipe: Recipe) -> str:
    ids = recipe.layer_ids
    return f" \\\n        --layer-ids {' '.join(map(str, ids))}" if ids else ""


def _looks(history: dict[str, Any], labels: int) -> str:
    """Agreement by depth while training went on: what more data would bring."""
    looks = history["held_out"]
    depths = range(1, len(looks[-1]["agreement"]) + 1)
    rows = [
        "| labels seen | " + " | ".join(f"agreement at depth {d}" for d in depths) + " |",
        "|---" * (len(depths) + 1) + "|",
    ]
    seen = [0]
    for entry in history["steps"]:
        seen.append(seen[-1] + entry["labels"])
    assert seen[-1] == labels
    for look in looks[:: max(1, len(looks) // 8)] + looks[-1:]:
        shares = " | ".join(f"{share:.3f}" for share in look["agreement"])
        rows.append(f"| {seen[look['step']]} | {shares} |")
    return "\n".join(dict.fromkeys(rows))


def _store_rows(history: dict[str, Any]) -> str:
    return "\n".join(
        f"| {row['tokens']} | {row['megabytes']} | "
        + " | ".join(f"{share:.3f}" for share in row["top_1_4_8"])
        + " |"
        for row in history["store"]
    )
