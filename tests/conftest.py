from __future__ import annotations

import os
import sys

# Tests are of the CPU, wherever they run, but for those that `pytest -m gpu` asks for. That is
# settled before any other conftest.py: torch and Triton look when they are first imported.
is_of_gpu = "gpu" in sys.argv
if not is_of_gpu:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
if not is_of_gpu or os.environ.get("CAST_GPU_TESTS") == "cpu":
    os.environ.setdefault("TRITON_INTERPRET", "1")
