"""The module that `layerserve codegen` writes: classes of one model, blocking and asyncio, and of its outputs.

Names from the server become identifiers and literals in `identifiers`; no other text of the server is in the module.
"""

from __future__ import annotations

import keyword
from collections.abc import Sequence

from layerserve.codegen.identifiers import class_name, in_docstring, literal, variables
from layerserve.errors import InvalidArgument
from layerserve.values.tables import shape_text
from layerserve.values.tensor_spec import TensorSpec

#: Names that the module uses, which none of its classes has.
_CLASSES = (
    *("TypedModel", "AsyncTypedModel", "Contract", "CONTRACT", "Prediction", "TensorSpec"),
    *("annotations", "dataclass", "np", "npt"),
)
#: Names in the body of a class or function, which none of its fields and arguments has.
_VARIABLES = ("self", "timeout", "prediction", "read", "np", "npt")

#: NumPy's scalar types for the dtypes of outputs that aren't called by their dtype.
_SCALARS = {"bool": "bool_", "string": "object_", "bfloat16": "float32"}


def module_source(
    model: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], name: str | None = None
) -> str:
    """Returns the source of the module. The same model gives the same source, whichever version it is.

    `name` is that of the class; default: made from the model's name. Raises InvalidArgument if it isn't an identifier.
    """
    if name is not None and (not name.isidentifier() or keyword.iskeyword(name) or name in _CLASSES):
        raise InvalidArgument(f"class: got {name!r}, expected an identifier")
    name = name or class_name(model, _CLASSES)
    arguments = variables([spec.name for spec in inputs], "input", _VARIABLES)
    fields = variables([spec.name for spec in outputs], "output", _VARIABLES)
    parts = [
        [*_head(model), "", *_contract(model, inputs, outputs)],
        _outputs_class(model, name, fields, outputs),
        _class(model, name, arguments, inputs, asynchronous=False),
        _class(model, name, arguments, inputs, asynchronous=True),
    ]
    return "\n\n\n".join("\n".join(part) for part in parts) + "\n"


def _head(model: str) -> list[str]:
    return [
        f'"""The model {in_docstring(model)} of a layerserve server, as a class.',
        "",
        "Written by `layerserve codegen`; write it again when the model changes.",
        '"""',
        "",
        "from __future__ import annotations",
        "",
        "from dataclasses import dataclass",
        "",
        "import numpy as np",
        "import numpy.typing as npt",
        "from layerserve import Prediction, TensorSpec",
        "from layerserve.codegen.api import AsyncTypedModel",
        "from layerserve.codegen.blocking import TypedModel",
        "from layerserve.codegen.contract import Contract",
    ]


def _contract(model: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> list[str]:
    lines = ["CONTRACT = Contract(", f"    model={literal(model)},"]
    for kind, specs in (("inputs", inputs), ("outputs", outputs)):
        lines.append(f"    {kind}=[")
        lines += [f"        {_spec(spec)}," for spec in specs]
        lines.append("    ],")
    return [*lines, ")"]


def _spec(spec: TensorSpec) -> str:
    encoding = f", {literal(spec.encoding)}" if spec.encoding else ""
    return f"TensorSpec({literal(spec.name)}, {_shape(spec)}, {literal(spec.dtype)}{encoding})"


def _shape(spec: TensorSpec) -> str:
    return repr(tuple(None if length is None else int(length) for length in spec.shape))


def _outputs_class(model: str, name: str, fields: Sequence[str], outputs: Sequence[TensorSpec]) -> list[str]:
    lines = [
        "@dataclass(frozen=True, eq=False)",
        f"class {name}Outputs:",
        f'    """Outputs of the model {in_docstring(model)}."""',
    ]
    for field, spec in zip(fields, outputs, strict=True):
        lines += ["", f"    {field}: npt.NDArray[np.{_scalar(spec)}]", f'    """Output {_described(spec)}."""']
    lines += ["", "    @classmethod", f"    def read(cls, prediction: Prediction) -> {name}Outputs:"]
    lines += ['        """Return the outputs of a prediction."""', "        return cls("]
    lines += [f"            {field}=prediction[{literal(s.name)}]," for field, s in zip(fields, outputs, strict=True)]
    return [*lines, "        )"]


def _class(
    model: str, name: str, arguments: Sequence[str], inputs: Sequence[TensorSpec], *, asynchronous: bool
) -> list[str]:
    prefix, define, wait = ("Async", "async def", "await ") if asynchronous else ("", "def", "")
    lines = [f"class {prefix}{name}({prefix}TypedModel):"]
    lines += [f'    """The model {in_docstring(model)}, on the server of an address or a client."""', ""]
    lines += ["    contract = CONTRACT", "", f"    {define} predict(", "        self,"]
    lines += [f"        {argument}: npt.ArrayLike," for argument in arguments]
    lines += ["        *,", "        timeout: float | None = None,", f"    ) -> {name}Outputs:"]
    lines += ['        """Compute the outputs for rows of data.', "", "        Args:"]
    lines += [f"            {a}: Input {_described(s)}." for a, s in zip(arguments, inputs, strict=True)]
    lines += ["            timeout: Timeout in seconds; default: the client's.", ""]
    lines += ["        Raises ModelMismatch if the served model has other inputs or outputs.", '        """']
    lines += [f"        prediction = {wait}self._predict(", "            {"]
    lines += [f"                {literal(s.name)}: {a}," for a, s in zip(arguments, inputs, strict=True)]
    lines += ["            },", "            timeout,", "        )"]
    return [*lines, f"        return {name}Outputs.read(prediction)"]


def _described(spec: TensorSpec) -> str:
    text = {"string": "text", "bfloat16": "bfloat16, as float32"}.get(spec.dtype, spec.dtype)
    return f"{in_docstring(spec.name)}: {shape_text(spec.shape)} {text}"


def _scalar(spec: TensorSpec) -> str:
    return _SCALARS.get(spec.dtype, spec.dtype)
