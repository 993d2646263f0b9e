"""Neutral text that no model wrote: a function of the generator's seed alone."""

from __future__ import annotations

from random import Random
from typing import Final

TOPICS: Final = (
    "the sea",
    "a small market",
    "winter in the mountains",
    "learning to cook",
    "an old railway",
    "a garden in spring",
    "a night at the theatre",
    "repairing a bicycle",
    "a long walk",
    "the history of bread",
)
# None of them is in a sentence below, so that they can be put there and counted.
WORDS: Final = ("lantern", "copper", "violin", "saddle", "pepper", "anchor", "marble", "falcon")

_ADJECTIVES: Final = ("quiet", "narrow", "bright", "heavy", "young", "patient", "distant", "plain")
_NOUNS: Final = ("river", "teacher", "window", "village", "road", "painter", "bridge", "letter")
_VERBS: Final = ("waited", "rested", "stood", "changed", "moved", "appeared", "remained", "turned")
_PREPOSITIONS: Final = ("near", "behind", "under", "by", "from", "with", "in", "at")
_CARRIERS: Final = (
    "Nobody had seen the {word} before.",
    "They spoke about a {word} all evening.",
    "She put the {word} back and smiled.",
    "His {word} was the first thing to go.",
)


def sentence(rng: Random) -> str:
    """Of eight words."""
    first, second = rng.sample(_NOUNS, 2)
    adjective, verb = rng.choice(_ADJECTIVES), rng.choice(_VERBS)
    other = rng.choice(_ADJECTIVES)
    return f"The {adjective} {first} {verb} {rng.choice(_PREPOSITIONS)} the {other} {second}."


def paragraph(rng: Random, num_sentences: int) -> str:
    return " ".join(sentence(rng) for _ in range(num_sentences))


def words(rng: Random, count: int) -> str:
    """A text of exactly so many words, its last sentence cut short."""
    cut = paragraph(rng, count // 8 + 1).split()[:count]
    return " ".join(cut).rstrip(".") + "."


def around(rng: Random, word: str, count: int) -> str:
    """A text that has the word, one of `WORDS`, exactly `count` times."""
    parts = [rng.choice(_CARRIERS).format(word=word) for _ in range(count)]
    parts += [sentence(rng) for _ in range(rng.randint(2, 5))]
    rng.shuffle(parts)
    return " ".join(parts)
