from __future__ import annotations

from pathlib import Path

from torch import Tensor

from cast_drafters.eagle.config import HeadConfig, TargetShape


def read_head(directory: Path, target: TargetShape) -> tuple[HeadConfig, dict[str, Tensor]]:
    raise NotImplementedError
