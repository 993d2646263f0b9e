"""Makes conversations with the target model itself: it writes the user turns, then answers them.

Conversation i depends on i alone, because noise is keyed by seed and position: whatever was killed
goes on where it was, and the corpus is the same however many are made at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Seq
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from tqdm import tqdm

from cast_server.engine.core import EngineCore
from cast_server.engine.request import Request, SamplingParams, SpeculationParams
from cast_server.engine.sequence import Sequence
from cast_server.training.corpus import Conversation, append, repair
from cast_server.training.features import FeatureFile, FeatureRecorder
from cast_server.training.openers import TASKS

_TEMPERATURES: Final = (0.0, 0.0, 0.0, 0.0, 0.0, 0.7, 1.0)  # most users of small models go greedy
_USER_TURN: Final = SamplingParams(temperature=0.8, min_p=0.05, min_tokens=2, max_tokens=2)
_READ: Final = SamplingParams(max_tokens=1)  # and what it says then is forgotten
_NAMES: Final = tuple(TASKS)
_MARK: Final = "\ue000"


class Generator:
    """Keeps `concurrency` requests in the engine until `count` conversations are in the file.

    The hidden states of `layer_ids` that the target had on the way go into a second file. What it
    wrote before, `written`, it only reads again for its hidden states.
    """

    def __init__(
        self,
        core: EngineCore,
        path: Path,
        layer_ids: tuple[int, ...],
        answer_tokens: int = 192,
        concurrency: int = 64,
        written: Iterable[Conversation] = (),
    ) -> None:
        self._written = {one.id: one for one in written}
        self._core = core
        self._path = path
        self._recorder = FeatureRecorder(core.runner, layer_ids)
        self._features = FeatureFile(path, self._recorder.row_shape)
        core.on_finish = self._keep_features
        self._answer_tokens = answer_tokens
        self._concurrency = concurrency
        self._before, self._after = _user_turn_marks(core.tokenizer)
        self._task_leads = {
            name: _user_turn_marks(core.tokenizer, task.system)[0] for name, task in TASKS.items()
        }
        self._active: dict[str, Conversation] = {}
        self._prompts: Seq[list[int]] | None = None

    def run(self, count: int, prompts: Seq[list[int]] | None = None) -> None:
        """With `prompts`, those are answered, round and round; without, the target makes them."""
        self._prompts = prompts
        done = repair(self._path)
        self._features.repair(self._path)
        todo = iter([i for i in range(count) if i not in done])
        with tqdm(total=count, initial=len(done), desc="conversations", unit="") as progress:
            while self._fill(todo) or self._active:
                for request_id in self._step():
                    progress.update(self._advance(request_id))

    def _fill(self, todo: Iterator[int]) -> bool:
        while len(self._active) < self._concurrency:
            index = next(todo, None)
            if index is None:
                return False
            self._begin(index)
        return True

    def _begin(self, index: int) -> None:
        if (known := self._written.get(index)) is not None:
            tokens = [*known.prompt, *known.answer[:-1]]
            self._ask(f"read-{index}", replace(known, prompt=tokens), _READ)
            return
        if self._prompts is not None:
            prompt = self._prompts[index % len(self._prompts)]
            temperature = _TEMPERATURES[index % len(_TEMPERATURES)]
            self._answer(Conversation(index, "given", temperature, prompt, []))
            return
        task = _NAMES[index % len(_NAMES)]
        prompt = [*self._task_leads[task], *self._encode(self._opener(index))]
        temperature = _TEMPERATURES[index // len(_NAMES) % len(_TEMPERATURES)]
        conversation = Conversation(index, task, temperature, prompt, [])
        params = replace(_USER_TURN, max_tokens=TASKS[task].max_tokens)
        self._ask(f"user-{index}", conversation, params)

    def _ask(self, request_id: str, conversation: Conversation, params: SamplingParams) -> None:
        self._active[request_id] = conversation
        self._core.add(
            Request(
                request_id,
                tuple(conversation.prompt),
                params,
                conversation.id,
                SpeculationParams("off"),
            )
        )

    def _step(self) -> list[str]:
        ended: list[str] = []
        for output in self._core.step():
            if output.error is not None:
                raise output.error  # a conversation without features would misplace the later ones
            if not output.request_id.startswith("read"):
                self._active[output.request_id].answer.extend(output.new_token_ids)
            if output.finish_reason is not None:
                ended.append(output.request_id)
        return ended

    def _keep_features(self, sequence: Sequence) -> None:
        if not sequence.id.startswith("user"):
            self._features.append(self._recorder.rows(sequence.slots(0, sequence.num_computed)))

    def _advance(self, request_id: str) -> int:
        """After the user turn comes the answer, after the answer the file."""
        one = self._active.pop(request_id)
        if request_id.startswith("read"):
            append(self._path, self._written[one.id])
            return 1
        if request_id.startswith("answer"):
            append(self._path, one)
            return 1
        turn = [*self._encode(self._opener(one.id)), *one.answer]
        prompt = [*self._before, *self._strip(turn), *self._after]
        self._answer(Conversation(one.id, one.task, one.temperature, prompt, []))
        return 0

    def _answer(self, asked: Conversation) -> None:
        params = SamplingParams(temperature=asked.temperature, max_tokens=self._answer_tokens)
        self._ask(f"answer-{asked.id}", asked, params)

    def _strip(self, turn: list[int]) -> list[int]:
        while turn and turn[-1] in self._core.eos_token_ids:
            turn.pop()
        return turn

    def _opener(self, index: int) -> str:
        return TASKS[_NAMES[index % len(_NAMES)]].opener(index // len(_NAMES))

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._core.tokenizer.encode(text, add_special_tokens=False)
        return ids


def _user_turn_marks(tokenizer: Any, system: str | None = None) -> tuple[list[int], list[int]]:
    """Token ids of the chat template before and after the words of a first user turn."""
    messages = [{"role": "system", "content": system}] if system else []
    text: str = tokenizer.apply_chat_template(
        [*messages, {"role": "user", "content": _MARK}], tokenize=False, add_generation_prompt=True
    )
    before, after = text.split(_MARK)
    encode = tokenizer.encode
    return encode(before, add_special_tokens=False), encode(after, add_special_tokens=False)
