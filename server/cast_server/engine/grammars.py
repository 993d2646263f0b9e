"""Grammars made ready for a model's tokens; those used of late stay, and are compiled once."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final, TypeVar

from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.gbnf_to_lark import any_to_lark

from cast_server.engine.grammar import Grammar
from cast_server.engine.grammar_state import GrammarState
from cast_server.errors import RequestError

T = TypeVar("T")

_KEPT: Final = 64  # compiled grammars
# Compiling takes time that grows faster than the text; a schema may have as many as at OpenAI.
_MAX_BYTES: Final = {
    "json_schema": 120_000,
    "choice": 120_000,
    "lark": 16_000,
    "gbnf": 16_000,
    "regex": 8_000,
}
# Below llguidance's defaults: what it does for one text, all others wait for.
_MAX_LEXER_STATES: Final = 50_000
_MAX_GRAMMAR_SIZE: Final = 100_000
_STEP_LEXER_FUEL: Final = 50_000
_STACK_BYTES: Final = 256 * 2**20  # of address space, for as long as a grammar is compiled
# Models that lose the thread repeat whitespace for ever, which JSON allows.
_WHITESPACE: Final = r"[\x20\x0A\x0D\x09]{1,40}"
_LONGEST_REASON: Final = 300
_NO_END: Final = {"content": "<|no end|>", "special": True, "normalized": False} | dict.fromkeys(
    ("single_word", "lstrip", "rstrip"), False
)


class Grammars:
    """Compiles; may be used by any thread. Nothing is made of the tokenizer before it is needed.

    `end_ids`: the tokens that end a text, if there are any.
    """

    def __init__(self, tokenizer: Any, vocab_size: int, end_ids: frozenset[int]) -> None:
        self._tokenizer, self._vocab_size, self._end_ids = tokenizer, vocab_size, end_ids
        self._tokens: LLTokenizer | None = None
        self._compiled: OrderedDict[Grammar, LLMatcher] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, grammar: Grammar, avoids_ends: bool = False) -> GrammarState:
        """At the beginning of a text. Fast if `check` has seen the grammar lately."""
        matcher = self._matcher(grammar).deep_copy()
        return GrammarState(matcher, self._end_ids, self._vocab_size, avoids_ends)

    def check(self, grammar: Grammar) -> None:
        """Compiles the grammar. Raises `RequestError`, a sentence on what is wrong with it."""
        self._matcher(grammar)

    def _matcher(self, grammar: Grammar) -> LLMatcher:
        """At the beginning, to be copied."""
        with self._lock:
            if grammar in self._compiled:
                self._compiled.move_to_end(grammar)
                return self._compiled[grammar]
        matcher = self._compile(grammar)
        with self._lock:
            self._compiled[grammar] = matcher
            while len(self._compiled) > _KEPT:
                self._compiled.popitem(last=False)
        return matcher

    def _compile(self, grammar: Grammar) -> LLMatcher:
        size, most = len(grammar.text.encode(errors="replace")), _MAX_BYTES[grammar.kind]
        if size > most:
            raise RequestError(f"It has {size} bytes, more than the {most} allowed.")
        tokens = self._token_table()
        try:
            return _with_deep_stack(lambda: _compiled(grammar, tokens))
        except Exception as error:
            raise RequestError(_reason(str(error))) from error

    def _token_table(self) -> LLTokenizer:
        with self._lock:
            if self._tokens is None:
                self._tokens = self._read_tokenizer()
            return self._tokens

    def _read_tokenizer(self) -> LLTokenizer:
        document = json.loads(self._tokenizer.backend_tokenizer.to_str())
        count = self._tokenizer.backend_tokenizer.get_vocab_size(with_added_tokens=True)
        ends = sorted(one for one in self._end_ids if one < count)
        if not ends:  # one is needed, so: beyond all that the model can say
            ends = [max(count, self._vocab_size)]
            document["added_tokens"].append({**_NO_END, "id": ends[0]})
        size = max(count, self._vocab_size, ends[-1] + 1)
        try:
            return LLTokenizer(json.dumps(document), n_vocab=size, eos_token=ends)
        except ValueError as error:
            raise RequestError(
                f"This model's tokenizer cannot be held to a grammar: {error}."
            ) from error


def _compiled(grammar: Grammar, tokens: LLTokenizer) -> LLMatcher:
    """Raises `ValueError` for a grammar that cannot be used, and whatever the converter does."""
    limits = LLParserLimits(
        max_lexer_states=_MAX_LEXER_STATES,
        max_grammar_size=_MAX_GRAMMAR_SIZE,
        step_lexer_fuel=_STEP_LEXER_FUEL,
        verbose_errors=False,
    )
    matcher = LLMatcher(tokens, _source(grammar), log_level=0, limits=limits)
    if not matcher.is_error():
        matcher.compute_bitmask()  # the first takes by far the longest; copies know its lexer
    if matcher.is_error():
        raise ValueError(matcher.get_error())
    return matcher


def _source(grammar: Grammar) -> str:
    """In llguidance's own format; what is wrong with it shows when it is compiled."""
    match grammar.kind:
        case "json_schema":
            json.loads(grammar.text, object_hook=_check_patterns)
            spaced: Any = {"whitespace_pattern": _WHITESPACE}
            return LLMatcher.grammar_from_json_schema(grammar.text, overrides=spaced)
        case "regex":
            return LLMatcher.grammar_from_regex(grammar.text)
        case "choice":
            choices = (json.dumps(one, ensure_ascii=False) for one in json.loads(grammar.text))
            return LLMatcher.grammar_from_lark(f"start: {' | '.join(choices)}")
        case "lark":
            return LLMatcher.grammar_from_lark(grammar.text)
        case "gbnf":
            return LLMatcher.grammar_from_lark(any_to_lark(grammar.text))


def _check_patterns(fields: dict[str, Any]) -> dict[str, Any]:
    """Raises `ValueError` for one that would be too long by itself."""
    patterns = [fields.get("pattern"), *(fields.get("patternProperties") or ())]
    most = _MAX_BYTES["regex"]
    if any(isinstance(one, str) and len(one) > most for one in patterns):
        raise ValueError(f"A pattern has more than the {most} characters allowed.")
    return fields


def _reason(message: str) -> str:
    """The line that says what is wrong, of several that also show where."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    line = next((one for one in lines if one.startswith("error:")), lines[0] if lines else "?")
    return line.removeprefix("error:").strip()[:_LONGEST_REASON].rstrip(".") + "."


def _with_deep_stack(work: Callable[[], T]) -> T:
    """In a thread of its own. Long chains of rules are followed by recursion, and a stack that
    overflows in there would take the server with it."""
    results: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(work())
        except Exception as error:  # noqa: BLE001 - it is raised again by whoever waits
            errors.append(error)

    before = threading.stack_size(_STACK_BYTES)
    try:
        thread = threading.Thread(target=run, name="grammar")
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
