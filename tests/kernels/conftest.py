from __future__ import annotations

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

import tiny_models  # imports triton, which reads the variable


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    with tiny_models.one_thread():
        yield
