"""What answers depend on beside the request, as one word: OpenAI's `system_fingerprint`."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
import transformers

from cast_server.engine.core import EngineCore


def system_fingerprint(core: EngineCore) -> str:
    """Equal where the same seed gives the same tokens. How far is drafted is no part of it."""
    runner = core.runner
    versions = (torch.__version__, transformers.__version__)
    facts = (str(runner.dtype), runner.device.type, runner.backend.name, *versions)
    digest = hashlib.sha256(json.dumps(facts).encode())
    digest.update(_some_weights(runner.model))
    return f"fp_{digest.hexdigest()[:12]}"


def _some_weights(model: Any) -> bytes:
    """Enough to tell models of one shape apart."""
    few = model.get_input_embeddings().weight[:16].detach()
    return bytes(few.float().cpu().numpy().tobytes())
