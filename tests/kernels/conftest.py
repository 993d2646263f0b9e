from __future__ import annotations

import pytest
import tiny_models


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    with tiny_models.one_thread():
        yield
