"""Execution of batches: the interface of served models, their loading, and the runner of a model."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from layergraph.errors import DataError, OutOfMemoryError, UnknownTensorError

from layerserve_server.errors import InvalidTensorError, TooLargeError, UnknownOutputError

if TYPE_CHECKING:
    from layergraph.execution.plan import Plan as GraphPlan
    from layergraph.execution.sequence_padding import SequencePadding
    from layergraph.models.model import Model

Array: TypeAlias = npt.NDArray[Any]


class TensorSpec(Protocol):
    """An input or output: name, shape (None for axes of any length) and dtype."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int | None, ...]: ...
    @property
    def dtype(self) -> str: ...


class EngineChoice(Protocol):
    """The engine chosen for batches of about `rows` rows, and the time of each engine for them, in milliseconds."""

    @property
    def rows(self) -> int: ...
    @property
    def engine(self) -> str: ...
    @property
    def milliseconds(self) -> Mapping[str, float]: ...
    @property
    def difference(self) -> float:
        """Maximum difference from the golden outputs beside the model file, for an engine of lower precision."""


class Signature(Protocol):
    """Names of a model's inputs and outputs in exports to TensorFlow, in the order of its specs."""

    @property
    def inputs(self) -> tuple[str, ...]: ...
    @property
    def outputs(self) -> tuple[str, ...]: ...
    @property
    def unnamed(self) -> tuple[str, ...]:
        """The inputs that were created without a name, in the order of their creation."""


class Plan(Protocol):
    """The layer calls that compute some outputs."""

    @property
    def input_specs(self) -> Sequence[TensorSpec]:
        """The inputs that these outputs depend on."""

    @property
    def output_specs(self) -> Sequence[TensorSpec]:
        """The outputs, in the requested order."""

    @property
    def batched(self) -> bool:
        """Whether rows of several requests may be joined in a batch."""

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Computes the outputs. Raises DataError if the content of an input is invalid, and OutOfMemoryError."""

    def tune(self, **options: Any) -> Any:
        """Times the engines and selects the fastest (see layergraph.execution.tuning.tuner.tune)."""


class ServedModel(Protocol):
    """Interface of a model that can be served, such as layergraph.Model."""

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
        """The engines that compute the outputs, by row count; empty for eager torch."""

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """The names in exports to TensorFlow, by the signature's key."""

    def plan(self, outputs: Sequence[str] | None = None) -> Plan:
        """Returns the plan for these outputs, by default all of the model's. Raises UnknownTensorError."""

    def count_params(self) -> int: ...
    def node_table(self) -> Sequence[Any]:
        """Returns the nodes of every layer, as objects with the fields of LayerNodes in graph.proto."""

    def output_nodes(self) -> Sequence[Any]:
        """Returns the tensors that the outputs are, as objects with the fields of NodeTensor in graph.proto."""


#: Maximum number of cached plans, by outputs. Clients choose the outputs, so there has to be a limit.
MAX_KEPT = 64

#: Environment variable with the plugins, for child processes. The setting uses the same variable.
PLUGINS_VARIABLE = "LAYERSERVE_PLUGINS"

#: Loads a model file. Raises layergraph's errors.
LoadModel: TypeAlias = Callable[[Path], ServedModel]


class ModelRunner:
    """Runs batches of a model (see batching.Executor). Thread-safe."""

    def __init__(self, model: ServedModel, threads: int | None = None) -> None:
        """`threads` is torch's number of threads for this model; None keeps that of the process."""
        self._model = model
        self._threads = threads
        #: Plans by outputs and number of inputs, and whether rows may be joined.
        self._plans: dict[tuple[tuple[str, ...], int], tuple[Plan, bool]] = {}
        self._padding: SequencePadding | None = None

    def pad_sequences(self) -> None:
        """Enables padding, so that sequences of different lengths can be batched.

        Raises UnpaddableError if padding would change the model's outputs.
        """
        # Imported here, since it imports torch.
        from layergraph.execution.padding_check import UnpaddableError, check_padding

        try:
            self._padding = check_padding(cast("GraphPlan", self._model.plan()))
        except UnpaddableError as reason:
            raise UnpaddableError(f"setting 'pad_sequences': sequences can't be padded: {reason}") from reason

    def padding(self, outputs: Sequence[str], inputs: Sequence[TensorSpec]) -> SequencePadding | None:
        """Returns how to pad sequences for these outputs and inputs; None if they can't be padded.

        Padding is possible for the model's own outputs only.
        """
        padding = self._padding
        if padding is None or not {spec.name for spec in self._model.output_specs}.issuperset(outputs):
            return None
        return padding if {spec.name for spec in inputs}.issuperset(padding.fills) else None

    def plan(self, outputs: Sequence[str]) -> Plan:
        """Returns the plan for the outputs; for all of the model's if empty. Raises UnknownOutputError."""
        try:
            return self._model.plan(tuple(dict.fromkeys(outputs)) or None)
        except UnknownTensorError as error:
            raise UnknownOutputError(str(error)) from error

    def __call__(self, outputs: tuple[str, ...], arrays: Mapping[str, Array]) -> Mapping[str, Array]:
        key = outputs, len(arrays)
        found = self._plans.get(key)
        if found is None:
            if len(self._plans) >= MAX_KEPT:
                self._plans = {}
            plan = self._model.plan(outputs)
            if len(plan.input_specs) < len(arrays):
                # Unused inputs come with requests for all outputs only: their plan is the one that is tuned.
                plan = self._model.plan()
            found = self._plans[key] = plan, plan.batched
        plan, batched = found
        try:
            if batched and not any(array.shape[0] for array in arrays.values()):
                return _no_rows(plan, arrays)
            return plan.run(arrays) if self._threads is None else _with_threads(self._threads, plan, arrays)
        except DataError as error:
            raise InvalidTensorError(str(error)) from error
        except OutOfMemoryError as error:
            raise TooLargeError(str(error)) from error

    def warm_up(self, rows: int, file: Path) -> bool:
        """Computes all outputs of one row, and of this number of rows. The results are dropped.

        The inputs are those of the golden file beside the model's `file`, repeated, or random. Returns False, and
        computes nothing, if neither is possible. Raises as `__call__` does.
        """
        # Imported here, since they import torch.
        from layergraph.execution.samples import NoSamplesError, Sampler
        from layergraph.golden import golden_inputs, golden_path

        plan = self.plan(())
        names = tuple(spec.name for spec in plan.output_specs)
        proof = golden_path(file)
        if os.path.lexists(proof):
            known = golden_inputs(cast("Model", self._model), proof)
            for count in (1, rows):
                self(names, {name: np.resize(array, (count, *array.shape[1:])) for name, array in known.items()})
            return True
        inputs = [spec.name for spec in plan.input_specs]

        def run(arrays: Sequence[Array]) -> None:
            plan.run(dict(zip(inputs, arrays, strict=True)))

        try:
            sampler = Sampler(cast("Any", plan.input_specs), run)
        except NoSamplesError:
            return False
        for count in (1, rows):
            self(names, dict(zip(inputs, sampler.rows(count), strict=True)))
        return True


def _with_threads(threads: int, plan: Plan, arrays: Mapping[str, Array]) -> Mapping[str, Array]:
    """Runs a plan with this number of torch's threads, which is a setting of the calling thread."""
    import torch

    usual = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return plan.run(arrays)
    finally:
        torch.set_num_threads(usual)


def _no_rows(plan: Plan, arrays: Mapping[str, Array]) -> Mapping[str, Array]:
    """Returns zero rows of every output, sliced from those for one row of zeros: many kernels require rows.

    Where a layer refuses zeros, such as a lookup without unknown terms, the rows are computed as they are.
    """
    one_row = {
        name: np.full((1, *array.shape[1:]), b"" if array.dtype == object else 0, array.dtype)
        for name, array in arrays.items()
    }
    try:
        return {name: result[:0] for name, result in plan.run(one_row).items()}
    except DataError:
        return plan.run(arrays)


def load_model(
    path: Path, read: Callable[[Path], Any] | None = None, rtol: float | None = None, atol: float | None = None
) -> ServedModel:
    """Loads a model file, and checks its outputs against the golden file beside it, if there is one.

    `read` reads the file, by default in this process; `rtol` and `atol` override the golden file's tolerances. Raises
    layergraph's errors, also for a layer that lacks its vocabulary: nothing sets one here, so no request succeeds.
    """
    # Imported here, so that flags and `--help` don't have to import torch.
    import layergraph
    from layergraph.errors import UnsupportedModelError
    from layergraph.golden import check_golden, golden_path
    from layergraph.layers.preprocessing.lookup import without_vocabulary

    model = layergraph.load_model(path) if read is None else read(path)
    if problems := without_vocabulary(model.walk_layers()):
        raise UnsupportedModelError(path, problems)
    proof = golden_path(path)
    if os.path.lexists(proof):
        check_golden(model, proof, rtol, atol)
    return model


def load_plugins(modules: str | None = None) -> list[str]:
    """Imports modules with custom layers, separated by commas, for this process and its children.

    None means the modules of the parent process. Returns the names of the custom layers. Raises ConfigError if a module
    can't be imported.
    """
    from layergraph import plugins

    if modules is None:
        modules = os.environ.get(PLUGINS_VARIABLE, "")
    else:
        os.environ[PLUGINS_VARIABLE] = modules
    return plugins.load_plugins(name.strip() for name in modules.split(",") if name.strip())


def has_plugins(modules: str) -> bool:
    """Whether the setting, or an installed package, has custom layers."""
    return bool(modules.strip() or entry_points(group="layergraph.layers"))


def set_threads(count: int) -> None:
    """Sets torch's number of threads per operation. 0 keeps torch's default, one per core."""
    import torch

    if count:
        torch.set_num_threads(count)


def make_ready() -> None:
    """Imports all modules that loading needs, and excludes their objects from garbage collection.

    Most objects live as long as the process. Without them, a collection, such as after a version is unloaded, takes a
    fraction of the time, in which no request is answered.
    """
    import layergraph
    import layergraph.archive.imported.opening
    import layergraph.golden

    # Has torch and layergraph import what they do at the first model only.
    layergraph.models.reading.vocabulary()
    inputs = layergraph.Input((1,))
    layergraph.Model(inputs, layergraph.layers.Dense(1)(inputs)).plan()
    gc.collect()
    gc.freeze()
