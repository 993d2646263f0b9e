from __future__ import annotations

import pytest
import tiny_models


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    with tiny_models.one_thread():
        yield


@pytest.fixture
def sent(device):
    """Sends what has been made on the CPU to where kernels run."""

    def send(*tensors):
        return tuple(one.to(device) for one in tensors)

    return send
