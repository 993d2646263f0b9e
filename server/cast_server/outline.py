"""A model as far as its configuration tells: every shape, and nothing in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from cast_kernels.linear import widens_halves
from cast_server.errors import ConfigError
from cast_server.model_files import ModelFiles, load_config

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
        """In memory once they are served: output rows may be wider, and are then no longer tied."""
        head = self.model.get_output_embeddings()
        if head is None:
            return self.num_weights * self.dtype.itemsize
        tied = self.model.get_input_embeddings().weight is head.weight
        rest = self.num_weights - (0 if tied else head.weight.numel())
        width = 2 if widens_on(device, self.dtype) else 4
        return rest * self.dtype.itemsize + head.weight.numel() * width


def read_outline(files: ModelFiles, dtype: torch.dtype) -> Outline:
    """Raises `ConfigError` for what transformers cannot build, and what it does not know."""
    config = load_config(files)
    config.dtype = dtype
    return Outline(files, empty_model(config, dtype, files.directory), dtype)


def empty_model(config: Any, dtype: torch.dtype, directory: Path) -> Any:
    """Of this configuration, on the meta device. Raises `ConfigError` for what cannot be built."""
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, dtype=dtype)
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ConfigError(f"The model in {directory} cannot be built: {reason}") from error


def widens_on(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether products of such weights are taken in float32 there, unless they are huge."""
    return device.type == "cpu" and widens_halves(torch.zeros((1, 1), dtype=dtype))
