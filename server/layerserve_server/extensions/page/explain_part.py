"""Explanations of a prediction: attributions as heat maps."""

from __future__ import annotations

from dataclasses import dataclass, replace

from layerserve.v1 import explanations_pb2 as pb
from layerserve.v1.tensor_pb2 import ModelSpec, Tensor
from layerserve.values import tensors

from layerserve_server.errors import InvalidRequestError, safe_text
from layerserve_server.extensions.drawings.heat_maps import HeatMap, heat_map
from layerserve_server.extensions.page.fields import Fields
from layerserve_server.extensions.page.guard import Guard
from layerserve_server.extensions.page.pages import Pages
from layerserve_server.extensions.page.part import PARTS
from layerserve_server.services.open_inference.infer_protocol import InferProtocol
from layerserve_server.services.rest.body_reader import BodyReader
from layerserve_server.services.rest.infer import translate
from layerserve_server.transport.http.exchange import HttpReply, HttpRequest, HttpRoute, Translated

METHOD = "/layerserve.v1.ExplanationService/Explain"
#: Lengths of the last axis of images, whose channels are added up.
CHANNELS = (1, 3, 4)
#: Number of axes of images, with rows and channels.
IMAGE_AXES = 4


@dataclass(frozen=True, slots=True)
class Attributed:
    """A tensor in the answer."""

    name: str
    shape: tuple[int, ...]
    heat_map: HeatMap | None


class ExplainPart:
    """The part of the page that explains an output."""

    def __init__(self, pages: Pages, guard: Guard, reader: BodyReader) -> None:
        """`reader` reads long bodies."""
        self._pages = pages
        self._guard = guard
        self._reader = reader
        self._protocol = InferProtocol()

    def route(self) -> HttpRoute:
        """Returns the route."""
        return HttpRoute("POST", PARTS + "explain", METHOD, self._explain, slow_replies=True)

    def _explain(self, request: HttpRequest) -> Translated:
        # The body is that of an `infer` path, as for a prediction: its only output is the one to explain.
        self._guard.check(request, changes=True)
        fields = Fields.of_query(request)
        model, version, row = fields.required("name"), fields.number("version"), fields.number("row")
        names = {"model": model, "version": ""}
        infer = self._protocol.read(translate(self._reader, replace(request, names=names)).message)
        if len(infer.outputs) > 1:
            raise InvalidRequestError(f"outputs: got {len(infer.outputs)}, expected one to explain")
        message = pb.ExplainRequest(
            model=ModelSpec(name=model, version=version) if version else ModelSpec(name=model),
            inputs=[tensors.encode(one.array(), one.name) for one in self._protocol.request(infer).tensors],
            output=infer.outputs[0].name if infer.outputs else "",
            target=_indices(fields.text("target")),
            to=[name.strip() for name in fields.text("to").splitlines() if name.strip()],
        )

        def show(answer: bytes) -> HttpReply:
            reply = pb.ExplainResponse.FromString(answer)
            shown = min(row, max(0, reply.outputs.shape[0] - 1))
            return self._pages.html(
                "explanation.html",
                version=reply.model.version,
                row=shown,
                numbers=_numbers(reply, shown),
                tensors=[_attributed(tensor, shown) for tensor in reply.attributions],
            )

        return Translated(message.SerializeToString(), show)


def _indices(text: str) -> list[int]:
    """Returns the indices in a text such as "3" or "0, 3". Raises InvalidRequestError."""
    words = text.replace(",", " ").split()
    if not all(word.isascii() and word.isdecimal() and len(word) < 10 for word in words):
        raise InvalidRequestError(f"element: got '{safe_text(text, 40)}', expected indices such as 3 or 0, 3")
    return [int(word) for word in words]


def _numbers(reply: pb.ExplainResponse, row: int) -> list[tuple[str, float]]:
    """Returns the numbers of a row, each with its name."""
    named = {
        "Output": reply.outputs,
        "Output for zeros": reply.baseline_outputs,
        "Error of the sum": reply.convergence_delta,
    }
    arrays = {name: tensors.decode(tensor) for name, tensor in named.items()}
    return [(name, float(array[row])) for name, array in arrays.items() if len(array)]


def _attributed(tensor: Tensor, row: int) -> Attributed:
    array = tensors.decode(tensor)
    shape = array.shape
    if array.ndim == IMAGE_AXES and shape[-1] in CHANNELS:
        array = array.sum(-1, keepdims=True)
    return Attributed(tensor.name, shape, heat_map(array, row))
