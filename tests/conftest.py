from __future__ import annotations

import os
from pathlib import Path

import torch

# What tests measure and learn, on a machine that they keep busy, is not for the user's own cache.
os.environ["CASTSERVE_CACHE"] = str(Path(__file__).parents[1] / ".pytest_cache" / "castserve")

# Triton decides as it is first imported whether to interpret, whoever imports it.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
