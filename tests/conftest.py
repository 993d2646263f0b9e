from __future__ import annotations

import os

import torch

# Triton decides as it is first imported whether to interpret, whoever imports it.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
