"""One batch on the device: what the server needs of a model, and how it runs one."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from layergraph.errors import DataError, UnknownTensorError

from layerserve_server.errors import InvalidTensorError, UnknownOutputError

if TYPE_CHECKING:
    from layergraph.execution.plan import Plan as GraphPlan
    from layergraph.execution.sequence_padding import SequencePadding

Array: TypeAlias = npt.NDArray[Any]


class TensorSpec(Protocol):
    """An input or output: name, shape with None where any length is taken, dtype."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int | None, ...]: ...
    @property
    def dtype(self) -> str: ...


class EngineChoice(Protocol):
    """What computes about `rows` rows, and the milliseconds that each engine took for them."""

    @property
    def rows(self) -> int: ...
    @property
    def engine(self) -> str: ...
    @property
    def milliseconds(self) -> Mapping[str, float]: ...
    @property
    def difference(self) -> float:
        """The largest difference to the proof beside the file, for an engine of less precision."""


class Plan(Protocol):
    """The calls that some outputs need."""

    @property
    def input_specs(self) -> Sequence[TensorSpec]:
        """Only the inputs that these outputs need."""

    @property
    def output_specs(self) -> Sequence[TensorSpec]:
        """The outputs, in the order asked for."""

    @property
    def batched(self) -> bool:
        """Whether rows of several requests may be joined."""

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Computes the outputs. Raises DataError where an input's content is at fault."""

    def tune(self, **options: Any) -> Any:
        """Times engines and uses the fastest from now on (as layergraph.execution.tuning.tuner.tune)."""


class ServedModel(Protocol):
    """A model as the server sees it. layergraph.Model is one."""

    @property
    def input_specs(self) -> Sequence[TensorSpec]: ...
    @property
    def output_specs(self) -> Sequence[TensorSpec]: ...
    @property
    def compiled(self) -> bool: ...
    @property
    def keras_version(self) -> str | None: ...
    @property
    def engines(self) -> Sequence[EngineChoice]:
        """What computes the outputs, by row count; empty while it is torch, call by call."""

    def plan(self, outputs: Sequence[str] | None = None) -> Plan:
        """The plan for these outputs; all of the model's where None. Raises UnknownTensorError."""

    def count_params(self) -> int: ...
    def node_table(self) -> Sequence[Any]:
        """The nodes of every layer: objects with the fields of graph.proto's LayerNodes."""


#: Choices of outputs whose plan is kept. Callers choose them, so there is a bound.
MAX_KEPT = 64

#: Tells child processes which plugins to import. It is the setting's own variable.
PLUGINS_VARIABLE = "LAYERSERVE_PLUGINS"

#: Reads a model file. Raises layergraph's errors.
LoadModel: TypeAlias = Callable[[Path], ServedModel]
#: Is given a model that was read, and the file that it was read from.
Adopt: TypeAlias = Callable[[Any, Path], None]


class ModelRunner:
    """Runs batches of one model (see batching.Executor). Thread-safe."""

    def __init__(self, model: ServedModel) -> None:
        self._model = model
        #: The plan of outputs, and whether their rows may be joined.
        self._plans: dict[tuple[str, ...], tuple[Plan, bool]] = {}
        self._padding: SequencePadding | None = None

    def pad_sequences(self) -> None:
        """Lets sequences of different lengths be joined from now on. Raises UnpaddableError where numbers would change.

        The import is here because it imports torch.
        """
        from layergraph.execution.padding_check import UnpaddableError, check_padding

        try:
            self._padding = check_padding(cast("GraphPlan", self._model.plan()))
        except UnpaddableError as reason:
            raise UnpaddableError(f"its sequences can't be padded, as 'pad_sequences' asks for: {reason}") from reason

    def padding(self, outputs: Sequence[str], inputs: Sequence[TensorSpec]) -> SequencePadding | None:
        """How sequences are padded where these outputs are computed from these inputs; None where they can't be.

        Only of the model's own outputs it is known how.
        """
        padding = self._padding
        if padding is None or not {spec.name for spec in self._model.output_specs}.issuperset(outputs):
            return None
        return padding if {spec.name for spec in inputs}.issuperset(padding.fills) else None

    def plan(self, outputs: Sequence[str]) -> Plan:
        """The plan for the outputs, or for all of the model's. Raises UnknownOutputError."""
        try:
            return self._model.plan(tuple(dict.fromkeys(outputs)) or None)
        except UnknownTensorError as error:
            raise UnknownOutputError(str(error)) from error

    def __call__(self, outputs: tuple[str, ...], arrays: Mapping[str, Array]) -> Mapping[str, Array]:
        found = self._plans.get(outputs)
        if found is None:
            if len(self._plans) >= MAX_KEPT:
                self._plans = {}
            plan = self._model.plan(outputs)
            found = self._plans[outputs] = plan, plan.batched
        plan, batched = found
        try:
            if batched and not any(array.shape[0] for array in arrays.values()):
                return _no_rows(plan, arrays)
            return plan.run(arrays)
        except DataError as error:
            raise InvalidTensorError(str(error)) from error


def _no_rows(plan: Plan, arrays: Mapping[str, Array]) -> Mapping[str, Array]:
    """Zero rows of every output, shaped and typed as for one row of zeros: many kernels refuse to run on no rows."""
    one_row = {name: np.zeros((1, *array.shape[1:]), array.dtype) for name, array in arrays.items()}
    return {name: result[:0] for name, result in plan.run(one_row).items()}


def load_probed_model(path: Path, adopt: Adopt | None = None) -> ServedModel:
    """As `load_model`, once another process has survived the file. Raises CorruptFileError where it hasn't."""
    from layergraph.archive.probe import probe
    from layergraph.errors import CorruptFileError

    if happened := probe(path):
        raise CorruptFileError(path, f"{happened}, when opened in a process of its own")
    return load_model(path, adopt)


def load_model(path: Path, adopt: Adopt | None = None) -> ServedModel:
    """Reads a model file with layergraph, and holds it to the proof beside it, if there is one.

    `adopt` is given the model before anything is computed.

    The import is here so that flags and `--help` don't wait for torch.
    """
    import layergraph
    from layergraph.golden import check_golden, golden_path

    model = layergraph.load_model(path)
    if adopt is not None:
        adopt(model, path)
    proof = golden_path(path)
    if os.path.lexists(proof):
        check_golden(model, proof)
    return model


def load_plugins(modules: str | None = None) -> list[str]:
    """Imports modules with layers of the operator's own, separated by commas, for this process and its children.

    Without `modules`, those that the parent process was given. Gives the names of all such layers. Raises ConfigError
    for a module that can't be imported.
    """
    from layergraph import plugins

    if modules is None:
        modules = os.environ.get(PLUGINS_VARIABLE, "")
    else:
        os.environ[PLUGINS_VARIABLE] = modules
    return plugins.load_plugins(name.strip() for name in modules.split(",") if name.strip())


def set_threads(count: int) -> None:
    """Sets how many threads one execution uses; 0 leaves torch's choice, one a core."""
    import torch

    if count:
        torch.set_num_threads(count)


def make_ready() -> None:
    """Imports all that loading needs, and takes it out of the garbage collector's sight.

    What lives as long as the process is most of what there is to look through: a collection afterwards, as when a
    version is let go, takes a fraction of the time, in which no request is answered.
    """
    import layergraph  # noqa: F401

    gc.collect()
    gc.freeze()
