from __future__ import annotations

import os

import pytest
import torch


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The CUDA device. CAST_GPU_TESTS=cpu runs the tests on a CPU, in Triton's interpreter, to see
    that they can run at all."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if os.environ.get("CAST_GPU_TESTS") == "cpu":
        return torch.device("cpu")
    pytest.skip("This test needs a CUDA device, and torch sees none here; with one: pytest -m gpu.")
