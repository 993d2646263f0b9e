"""From nothing but a target model to a head that can be served: make, learn, publish.

Every stage leaves files in one directory and takes up from them, so a run can be killed at any time
and started again with the same command.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from tqdm import tqdm

from cast_drafters.eagle.checkpoint import write_head
from cast_drafters.eagle.config import HeadConfig, default_layer_ids
from cast_drafters.eagle.drafter import CALIBRATION_FILE, POOL_FILE, STORE_FILE
from cast_drafters.eagle.head import EagleHead
from cast_drafters.eagle.served_v1 import final_norm
from cast_drafters.ngram_store import NgramStore, build_store
from cast_drafters.sources import StoreSource
from cast_server.build import build_core
from cast_server.config import EngineConfig
from cast_server.engine.model_runner import ModelRunner
from cast_server.errors import ConfigError
from cast_server.model_files import load_model, resolve_model
from cast_server.training.branching import Brancher
from cast_server.training.calibrating import calibrate
from cast_server.training.corpus import Conversation, read
from cast_server.training.dataset import Dataset
from cast_server.training.generate import Generator
from cast_server.training.pooling import fit_pool
from cast_server.training.report import write_card, write_curves
from cast_server.training.start import draft_vocabulary, head_config, known_head, start_head
from cast_server.training.store_report import measure_store
from cast_server.training.trainer import HeadTrainer, TrainingSettings

_BRANCH_SLOTS: Final = 4096  # tokens of one conversation and of all branches that grow on it


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that a head depends on, but for the machine. `prompts` is a user's file, or None.

    corpora: files of conversations that the model has written before. start: directory of the head
    that training begins with; None: one made of the target's parts.
    """

    model: str
    conversations: int
    answer_tokens: int
    draft_vocab_size: int
    layer_ids: tuple[int, ...] | None
    prompts: str | None
    settings: TrainingSettings
    corpora: tuple[str, ...] = ()
    start: str | None = None


class Pipeline:
    """Works in `directory`: corpus.jsonl, corpus.features, training/ and, at the end, head/.

    texts.jsonl, if it is there, holds more conversations that only go into n-grams and vocabulary.
    """

    def __init__(self, recipe: Recipe, directory: Path) -> None:
        self.recipe = recipe
        self.directory = directory
        self._corpus = directory / "corpus.jsonl"
        self._check()

    def make(self, concurrency: int = 64) -> None:
        """The corpus: prompts made by the target or taken from a file, answers by the target."""
        model, tokenizer = load_model(resolve_model(self.recipe.model), torch.bfloat16)
        layer_ids = self._taps(model)
        config = EngineConfig(
            model=self.recipe.model,
            drafter="ngram",
            policy="off",
            max_num_seqs=concurrency,
            kv_cache_tokens=concurrency * 1024,
        )
        core = build_core(config, model, tokenizer)
        written = [one for path in self.recipe.corpora for one in _known(Path(path))]
        generator = Generator(
            core, self._corpus, layer_ids, self.recipe.answer_tokens, concurrency, written
        )
        prompts = (
            read_prompts(Path(self.recipe.prompts), tokenizer) if self.recipe.prompts else None
        )
        generator.run(self.recipe.conversations, prompts)

    def learn(self) -> None:
        """The head, from the last checkpoint on."""
        _require(self._corpus, "make")
        model, _ = load_model(resolve_model(self.recipe.model), torch.float32)
        config, ids = self._config_and_vocabulary(model)
        trainer = HeadTrainer(
            self._first_head(model, config, ids),
            self._dataset(model),
            model.get_input_embeddings().weight.detach().bfloat16(),
            model.get_output_embeddings().weight.detach()[ids].bfloat16(),
            self.recipe.settings,
            self.directory / "training",
            self._brancher(model, ids) if self.recipe.settings.on_policy_steps else None,
        )
        with tqdm(total=self.recipe.settings.num_steps, desc="training", unit="step") as bar:

            def report(step: int, entry: dict[str, Any]) -> None:
                bar.update(step + 1 - bar.n)
                held_out = trainer.history.held_out
                agreed = held_out[-1]["agreement"] if held_out else entry["agreement"]
                shown = " ".join(f"{share:.2f}" for share in agreed)
                bar.set_postfix_str(f"loss {entry['loss']:.2f}, agreement by depth {shown}")

            trainer.run(report)

    def publish(self) -> Path:
        """head/: the head in EAGLE-3 format, store, pool, calibration, curves and a card."""
        checkpoint = self.directory / "training" / "checkpoint.pt"
        _require(self._corpus, "make")
        _require(checkpoint, "learn")
        model, _ = load_model(resolve_model(self.recipe.model), torch.float32)
        config, ids = self._config_and_vocabulary(model)
        state = torch.load(checkpoint, weights_only=True)
        head = EagleHead(config)
        head.load_state_dict(state["head"])
        target = self.directory / "head"
        tensors = {name: p.detach().bfloat16() for name, p in head.named_parameters()}
        write_head(target, config, tensors | {"draft_token_ids": ids}, type(model).__name__)
        everything = self._texts()
        conversations = [one for one in everything if not one.is_held_out]
        held_out = [one for one in everything if one.is_held_out]
        build_store(
            [[*one.prompt, *one.answer] for one in conversations],
            target / STORE_FILE,
            vocab_size=config.vocab_size,
            provenance={"model": self.recipe.model, "conversations": len(conversations)},
        )
        pool = fit_pool(
            head,
            self._dataset(model),
            model.get_input_embeddings().weight.detach().bfloat16(),
            ids,
            StoreSource(NgramStore.open(target / STORE_FILE)),
        )
        pool.save(target / POOL_FILE)
        prompts = [one.prompt for one in held_out]
        calibrate(self.recipe.model, target, prompts).save(target / CALIBRATION_FILE)
        history = state["history"]
        write_curves(history, target / "curves.png")
        history["store"] = measure_store(conversations, held_out, config.vocab_size)
        write_card(self.recipe, config, conversations, history, target / "README.md")
        (target / "history.json").write_text(json.dumps(history, separators=(",", ":")) + "\n")
        return target

    def _first_head(self, model: Any, config: HeadConfig, ids: Tensor) -> EagleHead:
        if self.recipe.start is None:
            return start_head(model, config, ids, self.recipe.settings.seed)
        _, tensors = known_head(Path(self.recipe.start), model)
        head = EagleHead(config)
        head.load_state_dict({name: t for name, t in tensors.items() if name != "draft_token_ids"})
        return head

    def _texts(self) -> list[Conversation]:
        """The corpus, and texts that came without hidden states: good for n-grams all the same."""
        more = self.directory / "texts.jsonl"
        return [*read(self._corpus), *(read(more) if more.exists() else ())]

    def _check(self) -> None:
        """One directory, one recipe; only more conversations and more steps are fine."""
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / "recipe.json"
        if path.exists():
            known = json.loads(path.read_text())
            fixed = {"conversations", "settings"}
            wish = json.loads(json.dumps(asdict(self.recipe)))
            for name in wish.keys() - fixed:
                if known.get(name, wish[name]) != wish[name]:
                    raise ConfigError(
                        f"{self.directory} was begun with {name} {known[name]!r}, not "
                        f"{wish[name]!r}: choose another --out, or go on as it was begun."
                    )
        path.write_text(json.dumps(asdict(self.recipe), indent=1) + "\n")

    def _taps(self, model: Any) -> tuple[int, ...]:
        """The layers that the head reads and, last of all, the end of the target."""
        num_layers = model.config.get_text_config().num_hidden_layers
        if self.recipe.start is not None:
            config, _ = known_head(Path(self.recipe.start), model)
            return (*config.layer_ids, num_layers)
        return (*(self.recipe.layer_ids or default_layer_ids(num_layers)), num_layers)

    def _brancher(self, model: Any, ids: Tensor) -> Brancher:
        """A second copy of the target, packed and in bfloat16, reads the head's drafts."""
        reader, _ = load_model(resolve_model(self.recipe.model), torch.bfloat16)
        embedding_VE = model.get_input_embeddings().weight.detach().bfloat16()
        runner = ModelRunner(reader, _BRANCH_SLOTS, torch.device("cpu"))
        return Brancher(runner, last_states(model), embedding_VE, ids)

    def _dataset(self, model: Any) -> Dataset:
        width = model.config.get_text_config().hidden_size
        return Dataset(self._corpus, (len(self._taps(model)), width), last_states(model))

    def _config_and_vocabulary(self, model: Any) -> tuple[HeadConfig, Tensor]:
        """The vocabulary is chosen once, from the corpus as it was then; or the first head's."""
        if self.recipe.start is not None:
            config, tensors = known_head(Path(self.recipe.start), model)
            return config, tensors["draft_token_ids"]
        path = self.directory / "training" / "draft_token_ids.pt"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            vocab_size = model.config.get_text_config().vocab_size
            size = min(self.recipe.draft_vocab_size, vocab_size)
            torch.save(draft_vocabulary(self._texts(), vocab_size, size), path)
        ids = torch.load(path, weights_only=True)
        return head_config(model, self._taps(model)[:-1], len(ids)), ids


def _known(corpus: Path) -> list[Conversation]:
    try:
        return list(read(corpus))
    except (OSError, ValueError, TypeError) as cause:
        raise ConfigError(
            f"--corpus {corpus} cannot be read ({cause}): name a corpus.jsonl of cast-train."
        ) from cause


def _require(path: Path, stage: str) -> None:
    if not path.exists():
        raise ConfigError(f"{path} is not there yet: run the stage {stage!r} first.")


def last_states(model: Any) -> Callable[[Tensor], Tensor]:
    """What the target does to its last hidden state before its output rows; float32."""
    norm = final_norm(model)

    @torch.no_grad()
    def apply(hidden: Tensor) -> Tensor:
        normed: Tensor = norm(hidden.float())
        return normed

    return apply


def read_prompts(path: Path, tokenizer: Any) -> list[list[int]]:
    """Token ids of a file with a {"prompt": "..."} or {"messages": [...]} a line."""
    prompts: list[list[int]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entry = json.loads(line)
            messages = entry.get("messages") or [{"role": "user", "content": entry["prompt"]}]
            ids = tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, return_dict=False
            )
        except Exception as cause:
            raise ConfigError(
                f'{path}, line {number}: need a JSON object with "prompt" or "messages" ({cause}).'
            ) from cause
        prompts.append(ids)
    return prompts
