"""A calibration where no call can be made: its table on the device, looked up for many at a time.

Shape suffixes: C candidates; M modes (greedy, sampled), S sources, D depths, R ranks, Q knots: the
numbers of a `Kind`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from cast_drafters.calibration import MOST_CERTAIN, ODDS


@dataclass(frozen=True, slots=True)
class Lookup:
    """`Calibration.table`, float32: odds_MSDRQ and steps_MP, by depths of paths."""

    odds_MSDRQ: Tensor
    steps_MP: Tensor

    def log_probs(
        self, mode_C: Tensor, source: int, depth_C: Tensor, rank_C: Tensor, confidence_C: Tensor
    ) -> Tensor:
        """What each candidate adds to the log-probability of its parent's path, at most 0: as
        `Calibration.log_prob` and `step_log_prob` say. confidence_C: float32 logarithms."""
        _, _, depths, ranks, knots = self.odds_MSDRQ.shape
        row_C = (mode_C, source, depth_C.clamp(1, depths) - 1, rank_C.clamp(max=ranks - 1))
        odds_CQ = self.odds_MSDRQ[row_C]
        low, high = ODDS
        confidence_C = confidence_C.clamp(max=-1e-6)
        odds_C = confidence_C - torch.log(-torch.expm1(confidence_C))
        inside_C = odds_C.clamp(low, high)
        along_C = (inside_C - low) * ((knots - 1) / (high - low))
        below_C = along_C.long().clamp(max=knots - 2)
        share_C = along_C - below_C
        at_C = odds_CQ.gather(1, below_C[:, None])[:, 0]
        next_C = odds_CQ.gather(1, below_C[:, None] + 1)[:, 0]
        told_C = at_C * (1 - share_C) + next_C * share_C + (odds_C - inside_C)
        step_C = self.steps_MP[mode_C, depth_C.clamp(max=self.steps_MP.shape[1] - 1)]
        return (logsigmoid(told_C).clamp(max=MOST_CERTAIN) + step_C).clamp(max=0.0)
