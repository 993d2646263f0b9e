"""From a drafter's confidence in a token to the probability that the target chooses it.

Confidences are honest on the text that they were fitted on, and off on everything else: more so the
deeper, the hotter, and from one source more than from another. So every verified step is a lesson:
once a node is accepted, the target's next choice is known, and with it which of all the node's
candidates, verified or not, was right. Only such nodes count (as in TreeSpark, arXiv 2609.22098):
what is learnt is the probability given that the parent was accepted, the factor of a path.

The map is a table of hit rates over the log-odds of the confidence, a row for each kind of guess.
Rows with few samples lean on what all depths and ranks have in common, and that on the prior.

A path is worth the product along it, times a factor for its depth: where the second guess is sure
of itself, the first was right more often than its own confidence says, as inside a passage that
repeats an earlier one. The factor is learnt from the paths that were verified.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

_LOW: Final = -5.0  # log-odds of the first and of the last knot
_HIGH: Final = 5.0
_KNOTS: Final = 11
_MODES, _SOURCES, _DEPTHS, _RANKS = 2, 3, 4, 2  # greedy or sampled; the last of each: and beyond
_MEMORY: Final = 30_000.0  # candidates that all rows together look back on
_HEAVY: Final = 1e6  # when weights are scaled back
_LEAN: Final = 30.0  # samples that the common rate of a knot is worth to a row
_PRIOR: Final = 20.0  # and the prior to the common rate
_PATH_DEPTHS: Final = 6  # the last: and beyond
_LARGEST_FACTOR: Final = math.log(2)
_STIFF: Final = 30.0  # accepted nodes that a factor of paths waits for, at first …
_SUPPLE: Final = 300.0  # … and in the long run
_AGEING: Final = 0.97  # of a surprise, an outcome
_FADING: Final = 0.998  # of a shift, an outcome
_LEAST_SPREAD: Final = 0.02
_SHORTEST_RUN: Final = 4  # outcomes
_BEYOND_BELIEF: Final = 3.5  # standard deviations
_BEST: Final = math.log(0.999)
ODDS: Final = (_LOW, _HIGH)
MOST_CERTAIN: Final = _BEST


class Kind(tuple[int, int, int, int]):
    """Index of a row: sampled, source, depth and rank, each cut to what is told apart."""

    __slots__ = ()

    @classmethod
    def of(cls, is_sampled: bool, source: int, depth: int, rank: int) -> Kind:
        return cls(
            (
                int(is_sampled),
                min(max(source, 0), _SOURCES - 1),
                min(depth, _DEPTHS) - 1,
                min(rank, _RANKS - 1),
            )
        )


class Calibration:
    """Starts as the identity, or as what `load` finds. Not for several threads."""

    def __init__(self) -> None:
        shape = (_MODES, _SOURCES, _DEPTHS, _RANKS, _KNOTS)
        self._seen = np.zeros(shape)
        self._hits = np.zeros(shape)
        self._prior = 1 / (1 + np.exp(-np.linspace(_LOW, _HIGH, _KNOTS)))
        self._weight = 1.0  # of the next sample
        self._odds: dict[Kind, list[float]] = {}  # at the knots
        self._stale: set[Kind] = set()  # rows to be worked out anew when they are next asked for
        self._paths = np.zeros((_MODES, _PATH_DEPTHS))  # logarithms of the factors
        self._weight_of_paths = np.full((_MODES, _PATH_DEPTHS), _STIFF)
        self._surprise = {
            (mode, source): Surprise() for mode in range(_MODES) for source in range(_SOURCES)
        }
        self.report = Reliability()

    def log_prob(self, kind: Kind, confidence: float) -> float:
        """Natural log-probability of acceptance, given the parent's; `confidence` is a logarithm
        too."""
        if kind in self._stale:
            self._stale.remove(kind)
            del self._odds[kind]
        return self._told(kind, confidence)

    def learn(self, kind: Kind, confidence: float, is_right: bool) -> None:
        """One candidate of an accepted node, held against what was last told of its kind."""
        predicted = math.exp(self._told(kind, confidence))
        below, share, _ = _place(confidence)
        for knot, part in ((below, 1 - share), (below + 1, share)):
            self._seen[kind][knot] += self._weight * part
            if is_right:
                self._hits[kind][knot] += self._weight * part
        # Instead of fading what is known, the new weighs ever more.
        self._weight *= 1 + 1 / _MEMORY
        if self._weight > _HEAVY:
            self._scale(1 / self._weight)
        self._stale.add(kind)  # rows that lean on this one follow in time
        self.report.add(predicted, is_right)
        mode, source, _, rank = kind
        if not rank:
            self._surprise[mode, source].add(predicted, is_right)

    def table(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """All that `log_prob` and `step_log_prob` tell, for who asks where no call can be made.

        Log-odds at the knots, which lie evenly between `ODDS`, by the numbers of a kind; and the
        step of each depth from 0 on, by sampled or not, the last of them standing for all beyond.
        """
        prior, lean = _PRIOR * self._weight, _LEAN * self._weight
        seen, hits = self._seen.sum((2, 3)), self._hits.sum((2, 3))
        common = (hits + prior * self._prior) / (seen + prior)
        rates = (self._hits + lean * common[:, :, None, None]) / (self._seen + lean)
        odds = np.log(rates / (1 - rates))
        self._stale.clear()
        for index in np.ndindex(odds.shape[:-1]):
            self._odds[Kind(index)] = odds[index].tolist()
        for place, surprise in self._surprise.items():
            odds[place] += surprise.shift
        steps = [
            [self.step_log_prob(bool(mode), depth) for depth in range(_PATH_DEPTHS + 2)]
            for mode in range(_MODES)
        ]
        return odds.astype(np.float32), np.array(steps, np.float32)

    def step_log_prob(self, is_sampled: bool, depth: int) -> float:
        """What a path's log-probability gains by being `depth` long instead of one node less,
        beside that of the node itself."""
        if not 1 < depth <= _PATH_DEPTHS:
            return 0.0
        return float(
            self._paths[int(is_sampled), depth - 1] - self._paths[int(is_sampled), depth - 2]
        )

    def learn_paths(self, is_sampled: bool, depth: int, expected: float, accepted: float) -> None:
        """Of one tree's verified nodes at a depth of 2 and more: how many were expected to be
        accepted, with all that leads to them, and how many were."""
        place = int(is_sampled), min(depth, _PATH_DEPTHS) - 1
        weight = min(_SUPPLE, self._weight_of_paths[place] + expected)
        self._weight_of_paths[place] = weight
        factor = self._paths[place] + (accepted - expected) / weight
        self._paths[place] = min(_LARGEST_FACTOR, max(-_LARGEST_FACTOR, factor))

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(".new")
        self._scale(1 / self._weight)
        document = {
            "seen": np.round(self._seen, 2).tolist(),
            "hits": np.round(self._hits, 2).tolist(),
            "paths": np.round(self._paths, 3).tolist(),
        }
        scratch.write_text(json.dumps(document) + "\n")
        scratch.replace(path)

    @classmethod
    def load(cls, path: Path, most: float = 300.0) -> Calibration:
        """What `save` wrote, each row worth at most `most` samples, so that it can be unlearnt.

        Raises `ValueError` on anything else.
        """
        new = cls()
        try:
            document = json.loads(path.read_text())
            seen, hits = (np.array(document[name], np.float64) for name in ("seen", "hits"))
            paths = np.array(document.get("paths", new._paths), np.float64)
        except (OSError, ValueError, KeyError, TypeError) as cause:
            raise ValueError(f"{path} is no calibration: {cause}.") from cause
        is_whole = hits.shape == seen.shape and paths.shape == new._paths.shape
        if seen.shape != new._seen.shape or not is_whole:
            raise ValueError(f"{path} is a calibration of another shape, {seen.shape}.")
        scale = np.minimum(1.0, most / np.maximum(seen.sum(-1, keepdims=True), 1e-9))
        new._seen, new._hits, new._paths = seen * scale, hits * scale, paths
        return new

    def _told(self, kind: Kind, confidence: float) -> float:
        """By the row as it was last asked for."""
        below, share, beyond = _place(confidence)
        odds = self._odds.get(kind)
        if odds is None:
            odds = self._odds[kind] = self._row(kind)
        along = odds[below] * (1 - share) + odds[below + 1] * share + beyond
        along += self._surprise[kind[:2]].shift
        # log of the logistic function; written so that no exponential can overflow
        return min(_BEST, min(0.0, along) - math.log1p(math.exp(-abs(along))))

    def _row(self, kind: Kind) -> list[float]:
        mode, source = kind[:2]
        prior, lean = _PRIOR * self._weight, _LEAN * self._weight
        seen = self._seen[mode, source].sum((0, 1))
        hits = self._hits[mode, source].sum((0, 1))
        common = (hits + prior * self._prior) / (seen + prior)
        rates = (self._hits[kind] + lean * common) / (self._seen[kind] + lean)
        odds: list[float] = np.log(rates / (1 - rates)).tolist()
        return odds

    def _scale(self, factor: float) -> None:
        self._seen *= factor
        self._hits *= factor
        self._weight *= factor


class Surprise:
    """Notices a change, such as another head or text of another kind, from a run of outcomes that
    the predictions make incredible; tells by how much the odds have to be moved.

    Outcomes are weighted by age; their sum in excess of the predictions is compared with its
    standard deviation.
    """

    def __init__(self) -> None:
        self.shift = 0.0  # of the log-odds, fading as the table learns what it stands for
        self._predicted = self._right = self._weight = self._variance = 0.0
        self._count = 0

    def add(self, predicted: float, is_right: bool) -> None:
        self.shift *= _FADING
        self._predicted = _AGEING * self._predicted + predicted
        self._right = _AGEING * self._right + is_right
        self._weight = _AGEING * self._weight + 1.0
        spread = max(_LEAST_SPREAD, predicted * (1 - predicted))
        self._variance = _AGEING**2 * self._variance + spread
        self._count += 1
        excess = self._right - self._predicted
        if self._count < _SHORTEST_RUN or excess**2 <= _BEYOND_BELIEF**2 * self._variance:
            return
        weight = self._weight + 1.0
        self.shift += _log_odds((self._right + 0.5) / weight)
        self.shift -= _log_odds((self._predicted + 0.5) / weight)
        self._predicted = self._right = self._weight = self._variance = 0.0
        self._count = 0


class Reliability:
    """How far predictions came true, by tenths of probability, in the last `memory` or so."""

    def __init__(self, memory: int = 20_000) -> None:
        self._memory = memory
        self._count = 0
        self._weight, self._predicted, self._actual = ([0.0] * 10 for _ in range(3))

    def add(self, predicted: float, is_right: bool) -> None:
        tenth = min(9, int(predicted * 10))
        self._weight[tenth] += 1
        self._predicted[tenth] += predicted
        self._actual[tenth] += is_right
        self._count += 1
        if self._count == self._memory:
            self._count //= 2
            for sums in (self._weight, self._predicted, self._actual):
                sums[:] = [0.5 * one for one in sums]

    @property
    def error(self) -> float:
        """Expected calibration error (Naeini et al. 2015); NaN before the first prediction."""
        total = sum(self._weight)
        if not total:
            return math.nan
        gaps = zip(self._predicted, self._actual, strict=True)
        return sum(abs(predicted - actual) for predicted, actual in gaps) / total

    def table(self) -> list[dict[str, float]]:
        """For each tenth that was predicted: how often, what, and what came true."""
        return [
            {"weight": weight, "predicted": predicted / weight, "actual": actual / weight}
            for weight, predicted, actual in zip(
                self._weight, self._predicted, self._actual, strict=True
            )
            if weight
        ]


def _place(confidence: float) -> tuple[int, float, float]:
    """The knot below, how far it is to the next, and what lies beyond the last; in log-odds."""
    confidence = min(confidence, -1e-9)
    odds = confidence - math.log(-math.expm1(confidence))
    inside = min(max(odds, _LOW), _HIGH)
    along = (inside - _LOW) * ((_KNOTS - 1) / (_HIGH - _LOW))
    below = min(int(along), _KNOTS - 2)
    return below, along - below, odds - inside


def _log_odds(share: float) -> float:
    return math.log(share / (1 - share))
