"""A request with inputs as bytes, which are decoded by other processes before it is queued."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from layerserve_server.errors import InvalidTensorError
from layerserve_server.inference.admission import Admission, Admitted, shape_text
from layerserve_server.inference.input_decoder import InputDecoder
from layerserve_server.inference.runner import Array
from layerserve_server.transport.call import Call


class EncodedRows:
    """The tensors of a request, of which some have to be decoded."""

    def __init__(self, given: Mapping[str, Array], decoders: Mapping[str, InputDecoder], admission: Admission) -> None:
        """`given` are arrays by name of input, and `decoders` are those of the inputs to be decoded."""
        self._given = dict(given)
        self._left = dict(decoders)
        self._admission = admission

    def decode(self, call: Call, done: Callable[[Admitted | Exception], None]) -> None:
        """Decodes one input after the other, and calls `done` once, in any thread: with all arrays, or an error.

        Raises as `InputDecoder.decode` does, and then doesn't call it.
        """
        name, decoder = self._left.popitem()
        array = self._given[name]
        if array.ndim not in (1, 2) or array.size != len(array):
            raise InvalidTensorError(
                f"input '{name}': got shape {shape_text(array.shape)}, expected one {decoder.encoding} for each row, "
                f"shape {shape_text((array.size,))}"
            )

        def decoded(outcome: Array | Exception) -> None:
            if isinstance(outcome, Exception):
                done(outcome)
                return
            self._given[name] = outcome
            try:
                if self._left:
                    self.decode(call, done)
                    return
                admitted = self._admission.admit(list(self._given.items()))
            except Exception as error:
                done(error)
                return
            done(admitted)

        decoder.decode(array.ravel().tolist(), call, decoded)
