"""Scorers as functions of Spark's DataFrames."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, Signature
from typing import Any

from layerserve.errors import InvalidArgument, InvalidTensor
from layerserve.scoring.columns import texts
from layerserve.values.tensor_spec import TensorSpec
from layerserve.values.tensors import Array

#: The class of Spark's type by dtype, and the dtype of its values if that is another one. Spark has no unsigned numbers
#: and no halves: the next wider type is taken.
_TYPES = {
    "bool": ("BooleanType", None),
    "int8": ("ByteType", None),
    "uint8": ("ShortType", "int16"),
    "int16": ("ShortType", None),
    "uint16": ("IntegerType", "int32"),
    "int32": ("IntegerType", None),
    "uint32": ("LongType", "int64"),
    "int64": ("LongType", None),
    "float16": ("FloatType", "float32"),
    "bfloat16": ("FloatType", None),
    "float32": ("FloatType", None),
    "float64": ("DoubleType", None),
    "string": ("StringType", None),
}


def predict_udf(
    score: Callable[[Any], Any], inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], batch_size: int
) -> Any:
    """See `Scorer.spark_udf`. `score` returns the outputs for a dict of arrays by input."""
    try:
        from pyspark.ml.functions import predict_batch_udf
        from pyspark.sql.types import StructField, StructType
    except ImportError as missing:
        raise InvalidArgument(
            f"spark_udf: requires {missing.name}: pip install '.[spark]' in the folder of the repository"
        ) from None
    fields = [StructField(spec.name, _type(spec)) for spec in outputs]
    shapes = {
        at: [axis for axis in spec.shape[1:] if axis is not None]
        for at, spec in enumerate(inputs)
        if len(spec.shape) > 1 and None not in spec.shape[1:]
    }
    return predict_batch_udf(
        Predict(score, inputs, outputs).make,
        return_type=StructType(fields) if len(fields) > 1 else fields[0].dataType,
        batch_size=batch_size,
        input_tensor_shapes=shapes,
    )


def _type(spec: TensorSpec) -> Any:
    """Returns Spark's type of an output. Raises InvalidTensor if it has none."""
    from pyspark.sql import types

    name, _ = _TYPES.get(spec.dtype, ("", None))
    is_scalar = len(spec.shape) == 1
    if not name or (is_scalar and spec.dtype == "bool"):
        raise InvalidTensor(name=spec.name, got=f"dtype {spec.dtype}", expected="a dtype that predict_batch_udf takes")
    kind = getattr(types, name)()
    return kind if is_scalar else types.ArrayType(kind, containsNull=False)


class Predict:
    """What a Python worker of Spark calls. Its parameters are the inputs of the model, which Spark counts."""

    def __init__(
        self, score: Callable[[Any], Any], inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
    ) -> None:
        self._score, self._inputs, self._outputs = score, tuple(inputs), tuple(outputs)

    def make(self) -> Callable[..., Any]:
        """Returns the function that computes a batch, in the process that computes it."""

        def predict(*arrays: Array) -> Array | Mapping[str, Array]:
            names = [spec.name for spec in self._inputs]
            results = self._score(dict(zip(names, arrays, strict=True)))
            made = {spec.name: _flat(results[spec.name], spec) for spec in self._outputs}
            return made if len(made) > 1 else next(iter(made.values()))

        several = [Parameter(f"input_{at}", Parameter.POSITIONAL_ONLY) for at in range(len(self._inputs))]
        predict.__signature__ = Signature(several)  # type: ignore[attr-defined]
        return predict


def _flat(array: Array, spec: TensorSpec) -> Array:
    """Returns an output as Spark takes it: with at most two axes, in a type that it has."""
    flat = array if array.ndim < 2 else array.reshape(len(array), -1)
    if spec.dtype == "string":
        return texts(flat, spec.name)
    return flat.astype(_TYPES[spec.dtype][1] or flat.dtype, copy=False)
