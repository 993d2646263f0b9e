"""What counts as a word and as a sentence, here and in every prompt that counts them."""

from __future__ import annotations

import re
from typing import Final

from cast_server.evaluators.base import Undefined

WORD_RULE: Final = (
    "A word is what stands between white space, as str.split() has it: hyphenated and contracted "
    "words count once, and so does a dash that stands alone. Two words are the same if they are "
    "so in lower case and without punctuation at their ends."
)
PREPOSITIONS: Final = ("at", "by", "from", "in", "of", "on", "under", "with")
_CORE: Final = re.compile(r"[^\W_](?:.*[^\W_])?", re.DOTALL)
_SENTENCE_END: Final = re.compile(r"(?<=[.!?])\s+")


def bare(word: str) -> str:
    """In lower case, without punctuation at its ends."""
    core = _CORE.search(word)
    return core[0].lower() if core else ""


def count_words(text: str) -> int:
    return len(text.split())


def count_word(text: str, word: str) -> int:
    return sum(bare(other) == word for other in text.split())


def count_prepositions(text: str) -> int:
    """Of the fixed list, whatever they do in the sentence."""
    return sum(bare(word) in PREPOSITIONS for word in text.split())


def nth_word(text: str, position: int) -> str:
    """Bare; position counts from 1. Raises Undefined: text_too_short, no_word_there."""
    words = text.split()
    if position > len(words):
        raise Undefined("text_too_short")
    if not (word := bare(words[position - 1])):
        raise Undefined("no_word_there")
    return word


def sentences(text: str) -> list[str]:
    return [sentence for sentence in _SENTENCE_END.split(text.strip()) if sentence]
