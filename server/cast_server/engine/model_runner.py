"""Everything that happens on the device: the target model, its KV cache, one pass over a step."""

from __future__ import annotations

import logging
from collections.abc import Sequence as Seq
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cast_drafters.base import HiddenObserver
from cast_kernels.backend import TORCH, Backend
from cast_kernels.linear import PackedLinear
from cast_kernels.tree_attention import SequenceRows
from cast_server.engine.attention import ATTENTION_NAME, register_attention
from cast_server.engine.forward_batch import ForwardBatch
from cast_server.engine.fusion import fuse_layers, pack_linears, widen_head
from cast_server.engine.taps import Taps
from cast_server.errors import UnsupportedModelError

_log = logging.getLogger(__name__)

# A wrong mask, position or layer moves logits by about their own spread; rounding by far less.
_TOLERANCE: Final = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 2e-1}
_PROBE_TOKENS: Final = 12
# oneDNN multiplies one row by another algorithm, slower than for four, and rounds it differently.
_MIN_ROWS: Final = 4


class ModelRunner:
    """Owns the target model and `num_slots` slots of KV cache, [layers, slots, 2, K, D].

    `min_rows`: passes should have as many, idle ones if need be.
    Takes the model over: its modules are repacked in place. Raises `UnsupportedModelError` if the
    model does not give the same logits through the paged tree path as by itself.
    """

    def __init__(
        self, model: Any, num_slots: int, device: torch.device, backend: Backend = TORCH
    ) -> None:
        self.device, self.backend = device, backend
        self.enter_thread()
        self.model = model.eval().to(device)
        self.dtype: torch.dtype = self.model.dtype
        text_config = self.model.config.get_text_config()
        self.vocab_size: int = text_config.vocab_size
        shape = kv_cache_shape(text_config, num_slots)
        # Not zeroed: no slot is read before it is written, and memory never used is never taken.
        self.kv_cache_YS2KD = torch.empty(shape, dtype=self.dtype, device=device)
        self.kv_caches: tuple[Tensor, ...] = self.kv_cache_YS2KD.unbind(0)
        # Masks are the plan's business. One that looks complete keeps transformers from making its
        # own, for which it would ask the device where positions jump.
        self._ready_mask = torch.empty((1, 1, 1, 1), dtype=self.dtype, device=device)
        self.min_rows = 1
        self.observer: HiddenObserver | None = None
        self._taps: Taps | None = None
        self._adapt()

    def enter_thread(self) -> None:
        """To be called by a thread that is going to run passes: CUDA's device is each thread's."""
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)

    def watch(self, observer: HiddenObserver | None) -> None:
        """From now on shows the hidden states of every pass to `observer`, if any."""
        if self._taps is not None:
            self._taps.remove()
        self.observer = observer
        self._taps = Taps(self.model, observer.layer_ids) if observer is not None else None

    @torch.inference_mode()
    def forward(self, batch: ForwardBatch) -> Tensor:
        """Logits of the wanted rows, float32 [rows, V]; also writes the keys and values of all.

        logit_rows may be empty, for a step of prefill chunks that end before their prompts.
        """
        out = self.model(
            input_ids=batch.input_ids_N.unsqueeze(0),
            position_ids=batch.position_ids_N.unsqueeze(0),
            attention_mask=self._ready_mask,
            use_cache=False,
            logits_to_keep=batch.logit_rows,
            forward_batch=batch,
        )
        if self.observer is not None and self._taps is not None:
            num_written = len(batch.slots_M)
            hidden = [hidden_NE[:num_written] for hidden_NE in self._taps.take()]
            self.observer.record(batch.slots_M, hidden)
        logits: Tensor = out.logits[0].float()
        return logits

    @torch.inference_mode()
    def commit(self, source: Seq[NDArray[np.int64]], target: Seq[NDArray[np.int64]]) -> None:
        """Moves accepted rows to their places in the cache; pairs of slot arrays."""
        if not source:
            return
        source_M, target_M = (
            torch.from_numpy(np.concatenate(slots)).to(self.device) for slots in (source, target)
        )
        # In order: no target comes before a source that is still to be read.
        parts = (slots_M.split(self.backend.max_moves) for slots_M in (source_M, target_M))
        for source_P, target_P in zip(*parts, strict=True):
            self.backend.kv_commit(self.kv_cache_YS2KD, source_P, target_P)
        if self.observer is not None:
            self.observer.move(source_M, target_M)

    @torch.inference_mode()
    def _adapt(self) -> None:
        """Own attention, fused layers, packed weights: each proven against the model itself."""
        register_attention()
        probe, expected = self._make_probe()
        self.model.set_attn_implementation(ATTENTION_NAME)
        widen_head(self.model)
        try:
            error = self._probe_error(probe, expected)
        except (TypeError, KeyError, AttributeError, RuntimeError, IndexError) as cause:
            raise UnsupportedModelError(
                f"{type(self.model).__name__} does not run on a paged KV cache: {cause}"
            ) from cause
        tolerance = _TOLERANCE[self.dtype]
        if not error <= tolerance:
            raise UnsupportedModelError(
                f"{type(self.model).__name__} gives other logits on a paged KV cache "
                f"(relative error {error:.2g}, at most {tolerance:.0e} is rounding): "
                "its attention does more than transformers' AttentionInterface tells."
            )
        self._fuse(probe, expected)

    def _fuse(self, probe: Tensor, expected: Tensor) -> None:
        layers = {
            name: module
            for name, module in self.model.named_modules()
            if isinstance(module, nn.ModuleList)
        }
        originals = {name: list(module) for name, module in layers.items()}
        if fuse_layers(self.model) and not (
            self._probe_error(probe, expected) <= _TOLERANCE[self.dtype]
        ):
            _log.info("fused layers change this model's logits; keeping transformers' own")
            for name, module in layers.items():
                for index, original in enumerate(originals[name]):
                    module[index] = original
        pack_linears(self.model)
        is_packed = any(isinstance(module, PackedLinear) for module in self.model.modules())
        self.min_rows = _MIN_ROWS if is_packed else 1

    def _make_probe(self) -> tuple[Tensor, Tensor]:
        """Tokens that the model itself says, and its logits for them: on text that surprises a
        model, rounding alone moves its logits a long way."""
        probe = torch.ones(1, dtype=torch.int64, device=self.device)
        while True:
            logits = self.model(input_ids=probe.unsqueeze(0), use_cache=False).logits[0].float()
            if len(probe) == _PROBE_TOKENS:
                return probe, logits
            probe = torch.cat([probe, logits[-1:].argmax(-1)])

    def _probe_error(self, probe: Tensor, expected: Tensor) -> float:
        """RMS error over RMS spread when the probe runs as a chunk and then as a tree.

        The tree holds each remaining token twice, so that a path must skip its decoys.
        """
        half = _PROBE_TOKENS // 2
        tail = torch.arange(half, _PROBE_TOKENS, device=self.device)
        prompt = SequenceRows(np.arange(half), np.tri(half, dtype=np.bool_), np.arange(half))
        first = self.forward(self._probe_batch(probe[:half], tail - half, prompt))
        depths = np.repeat(np.arange(half), 2)
        real = np.arange(2 * half) % 2 == 1
        sees = np.tri(2 * half, dtype=np.bool_) & real | np.eye(2 * half, dtype=np.bool_)
        branches = SequenceRows(np.arange(3 * half), sees, depths)
        decoyed = probe[half:].repeat_interleave(2)
        decoyed[::2] = (decoyed[::2] + 1) % self.vocab_size
        rows = torch.from_numpy(np.flatnonzero(real)).to(self.device)
        second = self.forward(self._probe_batch(decoyed, rows, branches))
        logits = torch.cat([first, second])
        spread = expected - expected.mean(-1, keepdim=True)
        return float((logits - expected).square().mean().sqrt() / spread.square().mean().sqrt())

    def _probe_batch(self, ids: Tensor, logit_rows: Tensor, rows: SequenceRows) -> ForwardBatch:
        context = rows.num_keys - rows.num_rows
        return ForwardBatch(
            input_ids_N=ids,
            position_ids_N=torch.from_numpy(context + rows.depths_C).to(self.device),
            slots_M=torch.from_numpy(rows.slots_L[context:]).to(self.device),
            logit_rows=logit_rows,
            plan=self.backend.plan([rows], self.device),
            kv_caches=self.kv_caches,
            backend=self.backend,
        )


def kv_cache_shape(text_config: Any, num_slots: int) -> tuple[int, int, int, int, int]:
    """[layers, slots, 2, key heads, head size]."""
    heads = text_config.num_attention_heads
    head_dim = getattr(text_config, "head_dim", None) or text_config.hidden_size // heads
    key_heads = getattr(text_config, "num_key_value_heads", None) or heads
    return text_config.num_hidden_layers, num_slots, 2, key_heads, head_dim


def check_supported(model: Any) -> None:
    """Raises `UnsupportedModelError` where one look tells that a model cannot be served."""
    name = type(model).__name__
    if model.config.is_encoder_decoder:
        raise UnsupportedModelError(
            f"{name} is an encoder-decoder model; castserve serves decoder-only models."
        )
    if not model._supports_attention_backend:  # noqa: SLF001
        raise UnsupportedModelError(
            f"{name} does not route its attention through transformers' AttentionInterface, "
            "so its drafts could not be verified on a paged KV cache."
        )
