"""Which arrays of a dataset are inputs, targets and weights of a model: by their names."""

from __future__ import annotations

from collections.abc import Sequence

from layerserve.datasets.array import DatasetArray
from layerserve.errors import InvalidArgument
from layerserve.training.data import ROLES, TrainingArray
from layerserve.v1 import training_pb2
from layerserve.v1.training_pb2 import DataRole
from layerserve.values.tensor_spec import TensorSpec

#: Before the name of an output that is also the name of an input, in files of sampled requests.
OUTPUT = "output:"


def dataset_arrays(
    id: str, names: Sequence[str], inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], *, validates: bool
) -> list[TrainingArray]:
    """Returns the arrays of a dataset, of these names, that a model uses.

    Their names are roles, as `upload` gives them: "x", "y", "sample_weight" and "validation_x", perhaps with
    the name or the position of an input or output behind: "x/title", "y/0". In a dataset with other names, too, those
    of inputs and outputs come first. What has neither kind of name isn't used; without `validates`, validation data
    isn't either. Raises InvalidArgument if there are no inputs or no targets.
    """
    by_role = all(_role(name) is not None for name in names)
    found = []
    for name in names:
        role, place = (None if by_role else _of_model(name, inputs, outputs)) or _role(name) or (None, "")
        if role is None or (not validates and role not in _TRAINING):
            continue
        specs = inputs if role in _INPUTS else outputs
        if place.isdigit() and place not in {spec.name for spec in specs} and int(place) < len(specs):
            place = specs[int(place)].name
        found.append(TrainingArray(role, place, DatasetArray(id, columns=(name,)), ""))
    for wanted, what, specs in (("x", "input", inputs), ("y", "output", outputs)):
        if not any(array.role == ROLES[wanted] for array in found):
            raise InvalidArgument(
                f"dataset {id[:12]}: got arrays {', '.join(names)}, expected '{wanted}', or names of the model's "
                f"{what}s: {', '.join(spec.name for spec in specs)}"
            )
    return found


_TRAINING = {ROLES["x"], ROLES["y"], ROLES["sample_weight"]}
_INPUTS = {training_pb2.DATA_ROLE_X, training_pb2.DATA_ROLE_VALIDATION_X}


def _role(name: str) -> tuple[DataRole.ValueType, str] | None:
    role, _, place = name.partition("/")
    return (ROLES[role], place) if role in ROLES else None


def _of_model(
    name: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> tuple[DataRole.ValueType, str] | None:
    if any(spec.name == name for spec in inputs):
        return ROLES["x"], name
    output = name.removeprefix(OUTPUT)
    return (ROLES["y"], output) if any(spec.name == output for spec in outputs) else None
