from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# What tests measure and learn, on a machine that they keep busy, is not for the user's own cache.
os.environ["CASTSERVE_CACHE"] = str(Path(__file__).parents[1] / ".pytest_cache" / "castserve")

# Tests are of the CPU, wherever they run, but for those that `pytest -m gpu` asks for. That is
# settled before any other conftest.py: torch and Triton look when they are first imported.
if "gpu" not in sys.argv:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ.setdefault("TRITON_INTERPRET", "1")

# How long an example takes says more of what else the machine does.
hypothesis.settings.register_profile("castserve", deadline=None)
hypothesis.settings.load_profile("castserve")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    """Where kernels run: in Triton's interpreter, and for `pytest -m gpu` on the device instead."""
    import torch

    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device; on a machine with one: pytest -m gpu")
    return torch.device(request.param)


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Commands set up the logging of their process, to a stream that ends with the test here."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
