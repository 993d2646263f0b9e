"""Ratios of eRanks of models that see (arXiv 2401.17139): of numbers that the caller has."""

from __future__ import annotations


def image_reduction_ratio(encoder: float, connector: float) -> float:
    """How much of a picture's eRank the connector takes away. At most 1; negative if it adds.

    encoder: eRank of the vision encoder's tokens; connector: of the same tokens behind it.
    """
    return (encoder - connector) / encoder


def image_text_alignment(image: float, text: float, both: float) -> float:
    """Mean over largest of the language model's eRanks on an image, a text, and one after the
    other: above 1/3, at most 1. Three unrelated inputs of equal eRank score 1 too."""
    return (image + text + both) / 3 / max(image, text, both)
