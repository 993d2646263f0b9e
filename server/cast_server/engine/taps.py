"""Hidden states of the target on their way through it, for whoever drafts or learns from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from cast_server.errors import UnsupportedModelError


class Taps:
    """Collects the residual stream at the input of some layers; id L is the output of the last.

    The numbering is that of transformers' `hidden_states` before the final norm.
    """

    def __init__(self, model: Any, layer_ids: Sequence[int]) -> None:
        layers = decoder_layers(model)
        self._layer_ids = tuple(layer_ids)
        self._hidden: dict[int, Tensor] = {}
        self._handles = [
            layers[layer_id].register_forward_pre_hook(self._before(layer_id), with_kwargs=True)
            if layer_id < len(layers)
            else layers[-1].register_forward_hook(self._after(layer_id))
            for layer_id in sorted(set(layer_ids))
        ]

    def take(self) -> list[Tensor]:
        """What the pass just ended left behind, [N, E] for each layer id, in their order."""
        taken, self._hidden = self._hidden, {}
        return [taken[layer_id] for layer_id in self._layer_ids]

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _before(self, layer_id: int) -> Any:
        def hook(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._keep(layer_id, args[0] if args else kwargs["hidden_states"])

        return hook

    def _after(self, layer_id: int) -> Any:
        def hook(_: Any, __: Any, out: Any) -> None:
            self._keep(layer_id, out[0] if isinstance(out, tuple) else out)

        return hook

    def _keep(self, layer_id: int, hidden: Tensor) -> None:
        self._hidden[layer_id] = hidden.reshape(-1, hidden.shape[-1])


def decoder_layers(model: Any) -> nn.ModuleList:
    """Raises `UnsupportedModelError` if they are not found."""
    count = model.config.get_text_config().num_hidden_layers
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise UnsupportedModelError(
        f"{type(model).__name__} does not keep its {count} layers in one list, so heads that read "
        "its hidden states cannot be used with it."
    )
