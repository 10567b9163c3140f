"""Requests with tensors in shared memory: inputs are read before queueing, and outputs are written with the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import numpy as np

from layerserve_server.errors import InvalidRequestError, TooLargeError, safe_text
from layerserve_server.extensions.triton.shared_memory.region_table import Region, RegionTable
from layerserve_server.services.open_inference.infer_protocol import InferTensor
from layerserve_server.services.prediction.places import REGION, Place
from layerserve_server.services.prediction.predict_protocol import PredictionRequest
from layerserve_server.services.prediction.predictor import Predictor
from layerserve_server.transport.call import Call
from layerserve_server.transport.perimeter.limits import PROMPT_BYTES


class PlacedRequests:
    """Answers such requests (see `RequestTaker`)."""

    def __init__(self, predictor: Predictor, regions: RegionTable, max_bytes: int, *, writes: bool) -> None:
        """`max_bytes` is the maximum size of the inputs of a request. `writes` is whether outputs are written."""
        self._predictor = predictor
        self._regions = regions
        self._max_bytes = max_bytes
        self._writes = writes

    def take(self, call: Call, request: PredictionRequest, *, here: bool) -> None:
        """See `RequestTaker`."""
        # Before a file is opened.
        call.caller.check_model("predict", request.choice[0])
        places, find = request.places, partial(self._regions.find, call.caller.owner)
        assert places is not None
        inputs = {index: (find(place.region), place) for index, place in places.inputs.items()}
        outputs = {name: RegionSink(name, find, place) for name, place in places.outputs.items()}
        if outputs and not self._writes:
            raise InvalidRequestError(
                f"output '{safe_text(min(outputs), 80)}': parameter '{REGION}': this server only reads "
                "shared memory (setting 'system_shared_memory'); leave it out"
            )
        for sink in outputs.values():
            sink.check()
        size = 0
        for region, place in inputs.values():
            region.check(place)
            size += place.size
        if size > self._max_bytes:
            raise TooLargeError(
                f"got inputs of {size} bytes in shared memory, expected at most {self._max_bytes} (setting "
                "'max_message_bytes')"
            )
        # They are copied, as those of a message.
        call.hold(size)

        def start() -> None:
            tensors = list(request.tensors)
            for index, (region, place) in inputs.items():
                tensors[index] = cast("InferTensor", tensors[index]).with_data(region.read(place))
            self._predictor.start(call, replace(request, tensors=tensors, places=None, sinks=outputs), here=here)

        if size > PROMPT_BYTES:
            call.in_pool(start)
        else:
            start()


@dataclass(frozen=True, slots=True)
class RegionSink:
    """Writes an output into its region (see `Sink`)."""

    output: str
    #: Finds a region of the caller by its name: it may be unregistered before the output is there.
    find: Callable[[str], Region]
    place: Place

    def check(self) -> None:
        """Raises NotFoundError and InvalidRequestError if it couldn't be written."""
        self.find(self.place.region).check(self.place)

    def write(self, content: Any) -> None:
        """See `Sink`."""
        view = content.reshape(-1).view(np.uint8).data if isinstance(content, np.ndarray) else memoryview(content)
        if len(view) > self.place.size:
            # As Triton has it.
            raise InvalidRequestError(
                f"shared memory size specified with the request for output '{self.output}' ({self.place.size} bytes) "
                f"should be at least {len(view)} bytes to hold the results"
            )
        region = self.find(self.place.region)
        region.check(self.place)
        region.write(self.place, view)
