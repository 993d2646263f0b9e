"""A model as far as its configuration tells: every shape, and nothing in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from cast_kernels.linear import can_widen, wide_bytes
from cast_server.engine.fusion import is_fusable
from cast_server.errors import ConfigError
from cast_server.model_files import ModelFiles, load_config, quiet_transformers

DTYPES: Final = {
    "auto": torch.bfloat16,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}


@dataclass(frozen=True, slots=True)
class Outline:
    """`model` is transformers' own, on torch's meta device: shapes and types without numbers."""

    files: ModelFiles
    model: Any
    dtype: torch.dtype

    @property
    def text_config(self) -> Any:
        return self.model.config.get_text_config()

    @property
    def num_weights(self) -> int:
        """Numbers in the checkpoint; what is tied counts once."""
        return sum(one.numel() for one in self.model.parameters())

    def weight_bytes(self, device: torch.device) -> int:
        """In memory once they are served: as `ModelRunner` packs them, output rows on their own."""
        head = self.model.get_output_embeddings()
        wide = {head, *(self._fused_linears() if can_widen(self.dtype, device) else ())}
        return sum(
            wide_bytes(module.weight.shape, self.dtype, device)
            if module in wide
            else sum(one.numel() for one in module.parameters(recurse=False)) * self.dtype.itemsize
            for module in self.model.modules()
        )

    def _fused_linears(self) -> Iterator[nn.Module]:
        for layer in self.model.modules():
            if is_fusable(layer):
                yield from (part for part in layer.modules() if type(part) is nn.Linear)


def read_outline(files: ModelFiles, dtype: torch.dtype) -> Outline:
    """Raises `ConfigError` for what transformers cannot build, and what it does not know."""
    config = load_config(files)
    config.dtype = dtype
    return Outline(files, empty_model(config, dtype, files.directory), dtype)


def empty_model(config: Any, dtype: torch.dtype, directory: Path) -> Any:
    """Of this configuration, on the meta device. Raises `ConfigError` for what cannot be built."""
    from transformers import AutoModelForCausalLM

    try:
        with quiet_transformers(), torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, dtype=dtype)
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ConfigError(f"The model in {directory} cannot be built: {reason}") from error
