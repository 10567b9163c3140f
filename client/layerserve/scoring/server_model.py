"""A model that a server computes."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from layerserve import Client
from layerserve.calls.connection import TLS
from layerserve.calls.tokens import Token
from layerserve.errors import InvalidArgument, ModelMismatch, ModelNotReady, Overloaded, Unavailable
from layerserve.models.info import ModelInfo, model_spec
from layerserve.models.node_shapes import NodeShapes
from layerserve.models.signatures import loaded_model
from layerserve.prediction.row_parts import check_part
from layerserve.scoring.open_models import Identity, dependent_rows
from layerserve.values.tensor_spec import TensorSpec
from layerserve.values.tensors import Array

#: Time for which a batch is sent again to a server that is too busy, or restarts, in seconds.
PATIENCE = 300.0
#: Pause before a batch is sent again, in seconds: at first, and at most. Processes that were refused together differ.
_PAUSE, _LONGEST_PAUSE, _JITTER = 0.2, 10.0, 0.5
#: The name of a tensor of the graph: a layer, and numbers of its node and of the tensor there.
_TENSOR = re.compile(r"(?P<layer>.+?)(:(?P<node>[0-9]+))?(:(?P<tensor>[0-9]+))?")


T = TypeVar("T")


class ServerModel:
    """A version of a server's model, and a connection. Thread-safe."""

    def __init__(
        self,
        address: str,
        model: str | None,
        version: int | None,
        outputs: Sequence[str] | None,
        *,
        token: Token | None,
        tls: bool | TLS,
        timeout: float,
    ) -> None:
        """Raises the errors of `Client.model`, and InvalidArgument for a model whose rows depend on one another."""
        self._client = Client(address, token=token, tls=tls, timeout=timeout)
        self._outputs = outputs
        name = self._only_model(address) if model is None else model
        info = self._loaded(name, version)
        if not info.independent_rows:
            raise dependent_rows(name)
        specs = info.outputs if outputs is None else self._specs(info, outputs)
        self.identity = Identity(info.name, info.version, info.digest, info.inputs, specs)

    def run(self, arrays: Mapping[str, Array]) -> Mapping[str, Array]:
        """Returns the outputs for some rows, also if the server is too busy for a while.

        Raises ModelMismatch if the version's file is another one by now.
        """
        known, client = self.identity, self._client
        made = _patiently(lambda: client.predict_named(known.model, arrays, self._outputs, version=known.version))
        # Asked afterwards: a file that was replaced before the request was computed is another one by now.
        check_digest(known, _patiently(lambda: client.model(known.model, version=known.version)).digest)
        rows = len(next(iter(arrays.values())))
        check_part(made, rows, made)
        return made

    def _only_model(self, address: str) -> str:
        found = list(dict.fromkeys(info.name for info in self._client.models()))
        if len(found) == 1:
            return found[0]
        raise InvalidArgument(
            f"model: got None, expected the name of one of the models of {address}: {', '.join(found) or 'it has none'}"
        )

    def _loaded(self, name: str, version: int | None) -> ModelInfo:
        info = self._client._run(loaded_model(model_spec(name, version)))
        if not info.digest:
            raise ModelNotReady(f"model {name!r} version {info.version}: its file is just being replaced; try again")
        return info

    def _specs(self, info: ModelInfo, outputs: Sequence[str]) -> tuple[TensorSpec, ...]:
        known = {spec.name: spec for spec in info.outputs}
        if known.keys() >= set(outputs):
            return tuple(known[name] for name in outputs)
        # The server says which of them it doesn't know.
        shapes = self._client.node_shapes(info.name, version=info.version)
        return tuple(known.get(name) or _tensor_spec(shapes, name) for name in outputs)


def _patiently(call: Callable[[], T]) -> T:
    """Returns the result of a call, which is repeated for PATIENCE: what scores for hours meets busy moments."""
    end, pause = time.monotonic() + PATIENCE, _PAUSE
    while True:
        try:
            return call()
        except (Overloaded, Unavailable) as error:
            asked = error.retry_after if isinstance(error, Overloaded) else None
            seconds = (pause if asked is None else asked) + random.uniform(0, _JITTER)
            if time.monotonic() + seconds > end:
                raise
        time.sleep(seconds)
        pause = min(2 * pause, _LONGEST_PAUSE)


def _tensor_spec(shapes: NodeShapes, name: str) -> TensorSpec:
    """Returns the shape and dtype of any tensor of the graph. Raises LayerNotFound, and InvalidArgument."""
    found = _TENSOR.fullmatch(name)
    layer = shapes[found["layer"] if found else name]
    node, tensor = (int((found and found[part]) or 0) for part in ("node", "tensor"))
    tensors = layer.nested_outputs or (layer.nodes[node].outputs if node < len(layer.nodes) else ())
    if tensor >= len(tensors):
        raise InvalidArgument(f"outputs: got {name!r}, but layer {layer.path!r} has no such node or tensor")
    return TensorSpec(name, tensors[tensor].shape, tensors[tensor].dtype)


def check_digest(known: Identity, digest: str) -> None:
    """Raises ModelMismatch if a version has another digest than when the scorer was made."""
    if digest != known.digest:
        raise ModelMismatch(
            f"model {known.model!r} version {known.version}: got the digest {digest or '(none)'}, expected "
            f"{known.digest}, as when the Scorer was made: its file was replaced; make a new Scorer and start again"
        )
