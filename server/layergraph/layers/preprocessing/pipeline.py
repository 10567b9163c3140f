"""A sequence of layers as one layer (keras.layers.Pipeline)."""

from __future__ import annotations

from collections import Counter
from typing import Any

from layergraph.config.options import option
from layergraph.functional import scopes
from layergraph.functional.call_context import CallContext
from layergraph.functional.input import Input
from layergraph.functional.layer import Layer
from layergraph.functional.nest import map_structure
from layergraph.functional.tensor import Tensor
from layergraph.functional.weights import Weights
from layergraph.layers.inner_layers import layer_list


class Pipeline(Layer):
    """Applies `layers` one after another (keras.layers.Pipeline)."""

    layers: tuple[Layer, ...] = option(layer_list)

    supports_masking = True
    regularizes_activity = False

    def setup(self) -> None:
        """Registers the layers as sublayers, by the names of their groups in files."""
        used: Counter[str] = Counter()
        for layer in self.layers:
            used[layer.group_name] += 1
            number = f"_{used[layer.group_name] - 1}" if used[layer.group_name] > 1 else ""
            self.sublayers[f"layers/{layer.group_name}{number}"] = layer

    def build_for(self, args: tuple[Any, ...]) -> None:
        if not self.built:
            outputs = args[0]
            with scopes.building(self):
                for layer in self.layers:
                    calls = len(layer.inbound_nodes)
                    outputs = layer(map_structure(self._described, outputs))
                    del layer.inbound_nodes[calls:]
        super().build_for(args)

    def _described(self, leaf: Any) -> Any:
        dtype = leaf.dtype if isinstance(leaf, Tensor) else "float32"
        return Input(batch_shape=tuple(leaf.shape), dtype=dtype)

    def forward(self, context: CallContext, w: Weights, inputs: Any, mask: Any = None) -> Any:
        for name, layer in self.sublayers.items():
            takes_mask = mask is not None and layer.uses_masks and "mask" in layer.mask_argument_names
            kwargs = {"mask": mask} if takes_mask else {}
            inputs, mask = layer.execute(context, w[name], (inputs,), kwargs, mask, want_masks=True)
        return inputs

    def get_config(self) -> dict[str, Any]:
        """Keras 3's config: name and layers only."""
        config = super().get_config()
        return {"name": config["name"], "layers": config["layers"]}


LAYERS: dict[str, type[Layer]] = {"Pipeline": Pipeline}
