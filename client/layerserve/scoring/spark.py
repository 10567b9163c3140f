"""Scorers as functions of Spark's DataFrames."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Any

from layerserve.errors import InvalidArgument, InvalidTensor
from layerserve.scoring.columns import texts
from layerserve.values.tensor_spec import TensorSpec
from layerserve.values.tensors import Array

if TYPE_CHECKING:
    from layerserve.scoring.scorer import Scorer

#: Spark's types by dtype, those that its `predict_batch_udf` takes. It has no unsigned ones: the next wider is taken.
_TYPES = {
    "bool": "boolean",
    "int8": "tinyint",
    "uint8": "smallint",
    "int16": "smallint",
    "uint16": "int",
    "int32": "int",
    "uint32": "bigint",
    "int64": "bigint",
    "float16": "float",
    "bfloat16": "float",
    "float32": "float",
    "float64": "double",
    "string": "string",
}
_NUMPY = {"tinyint": "int8", "smallint": "int16", "int": "int32", "bigint": "int64", "float": "float32"}


def predict_udf(scorer: Scorer, batch_size: int) -> Any:
    """See `Scorer.spark_udf`."""
    try:
        from pyspark.ml.functions import predict_batch_udf
    except ImportError:
        raise InvalidArgument("spark_udf: requires pyspark: pip install 'layerserve[spark]'") from None
    types = {spec.name: _type(spec) for spec in scorer.outputs}
    several = len(types) > 1
    fields = ", ".join(f"`{name.replace('`', '``')}` {kind}" for name, kind in types.items())
    shapes = {
        at: list(map(int, filter(None, spec.shape[1:])))
        for at, spec in enumerate(scorer.inputs)
        if len(spec.shape) > 1 and None not in spec.shape[1:]
    }
    return predict_batch_udf(
        Predict(scorer).make,
        return_type=f"struct<{fields}>" if several else next(iter(types.values())),
        batch_size=batch_size,
        input_tensor_shapes=shapes,
    )


def _type(spec: TensorSpec) -> str:
    """Returns an output's type. Raises InvalidTensor if Spark has none for it."""
    kind = _TYPES.get(spec.dtype)
    if kind is None or (kind == "boolean" and len(spec.shape) == 1):
        raise InvalidTensor(name=spec.name, got=f"dtype {spec.dtype}", expected="a type that predict_batch_udf has")
    return kind if len(spec.shape) == 1 else f"array<{kind}>"


class Predict:
    """What a Python worker of Spark calls. Its parameters are the inputs of the model, which Spark counts."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer

    def make(self) -> Callable[..., Any]:
        """Returns the function that computes a batch, in the process that computes it."""

        def predict(*arrays: Array) -> Array | Mapping[str, Array]:
            names = [spec.name for spec in self._scorer.inputs]
            results = self._scorer(dict(zip(names, arrays, strict=True)))
            made = {spec.name: _flat(results[spec.name], spec) for spec in self._scorer.outputs}
            return made if len(made) > 1 else next(iter(made.values()))

        several = [Parameter(f"input_{at}", Parameter.POSITIONAL_ONLY) for at in range(len(self._scorer.inputs))]
        predict.__signature__ = Signature(several)  # type: ignore[attr-defined]
        return predict


def _flat(array: Array, spec: TensorSpec) -> Array:
    """Returns an output as Spark takes it: with at most two axes, in a type that it has."""
    flat = array if array.ndim < 2 else array.reshape(len(array), -1)
    if spec.dtype == "string":
        return texts(flat, spec.name)
    return flat.astype(_NUMPY.get(_TYPES[spec.dtype], flat.dtype), copy=False)
