"""Names of dtypes in the Open Inference Protocol."""

from __future__ import annotations

from layerserve_server.errors import InvalidTensorError, safe_text
from layerserve_server.protocols.inference import inference_pb2

#: By the dtype's name here.
DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "bfloat16": "BF16",
    "string": "BYTES",
}
DTYPES = {datatype: dtype for dtype, datatype in DATATYPES.items()}


def datatype(dtype: str, name: str) -> str:
    """Returns "FP32" for "float32". Raises InvalidTensorError if the protocol lacks it; `name` is the tensor's."""
    try:
        return DATATYPES[dtype]
    except KeyError:
        raise InvalidTensorError(
            f"tensor '{name}': has dtype {dtype}, which the Open Inference Protocol lacks; call "
            "layerserve.v1.PredictionService"
        ) from None


def dtype(datatype: str, name: str) -> str:
    """Returns "float32" for "FP32". Raises InvalidTensorError if there is no such type; `name` is the tensor's."""
    try:
        return DTYPES[datatype]
    except KeyError:
        known = ", ".join(DTYPES)
        got = safe_text(datatype, 80)
        raise InvalidTensorError(
            f"input '{safe_text(name, 80)}': got datatype '{got}', expected one of {known}"
        ) from None


def config_type(dtype: str, name: str) -> inference_pb2.DataType.ValueType:
    """Returns the number of a dtype in a model's configuration. Raises as `datatype` does."""
    found = datatype(dtype, name)
    return inference_pb2.DataType.Value("TYPE_STRING" if found == "BYTES" else f"TYPE_{found}")
