"""What a training run tells its users: curves to look at and a card to read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cast_drafters.eagle.config import HeadConfig
from cast_server.errors import ConfigError
from cast_server.training.corpus import Conversation

if TYPE_CHECKING:
    from cast_server.training.pipeline import Recipe


def write_curves(history: dict[str, Any], path: Path) -> None:
    """Loss, and agreement with the target by depth, over the tokens trained on."""
    try:
        from matplotlib.figure import Figure
    except ImportError as cause:
        raise ConfigError("Curves need `pip install 'castserve[plots]'`.") from cause

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
    num_steps: int,
    conversations: Sequence[Conversation],
    history: dict[str, Any],
    path: Path,
) -> None:
    """The card: what the head is, what it was made of, how good it is on text it never saw."""
    last = history["held_out"][-1]
    rows = "\n".join(
        f"| {depth} | {agreement:.3f} | {loss:.3f} |"
        for depth, (agreement, loss) in enumerate(
            zip(last["agreement"], last["loss"], strict=True), start=1
        )
    )
    tasks = Counter(one.task for one in conversations)
    answers = sum(len(one.answer) for one in conversations)
    labels = sum(entry["labels"] for entry in history["steps"])
    settings = recipe.settings
    path.write_text(f"""\
# EAGLE-3 head for {recipe.model}

One decoder layer of {config.hidden_size} units that reads the target's layers
{", ".join(map(str, config.layer_ids))} (residual stream at their input) and drafts from a
vocabulary of {config.draft_vocab_size} tokens. Beside it, `ngrams.store`: n-gram counts of the
same conversations.

## Data

{len(conversations)} conversations ({", ".join(f"{n} {task}" for task, n in tasks.items())}) with
{answers} answer tokens, all written by the target itself:
{f"answers to {recipe.prompts}" if recipe.prompts else "user turns and answers"}. One
conversation in 32 was held out.

## Training

{num_steps} steps, {labels} labels in all, unrolled {settings.depth} deep (weight
{settings.depth_weight} a level), AdamW at {settings.learning_rate}, seed {settings.seed}, bfloat16
arithmetic. Epochs took in the corpus as it grew: {", ".join(map(str, history["epochs"]))}
conversations.

![curves](curves.png)

## Held out

| depth | agreement with the target's likeliest token | cross-entropy |
|---|---|---|
{rows}
""")
