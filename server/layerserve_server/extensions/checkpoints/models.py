"""Models of kept checkpoints: as files, and for predictions. Each is made in a forked child process with limits."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from layerserve_server.errors import UnknownCheckpointError, VersionFailedError
from layerserve_server.inference.admission import admit
from layerserve_server.inference.runner import ModelRunner, load_plugins
from layerserve_server.jobs.array_files import read_array, write_array
from layerserve_server.jobs.channel import Channel, never
from layerserve_server.jobs.table import Job
from layerserve_server.repository.publishing import link_file
from layerserve_server.training.conversion import Converter, saved
from layerserve_server.training.finite import check_finite
from layerserve_server.training.from_checkpoint import STATE, Start
from layerserve_server.training.model import as_published, placeholders, prepare_model
from layerserve_server.training.request import Role, RunRequest

if TYPE_CHECKING:
    from layergraph.models.model import Model

WHAT = "making the model of a checkpoint"
BUILD = Job(f"{__name__}:build", WHAT, nice=10, failure=VersionFailedError)
PREDICT = Job(f"{__name__}:predict", WHAT, nice=10, failure=VersionFailedError)
#: Maximum processor time of a prediction, with loading the model, in seconds.
PREDICT_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a request or a reply, with its elements encoded as in a message."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes


class CheckpointModels:
    """Makes the models of checkpoints, with the limits and in the slots of conversions."""

    def __init__(self, converter: Converter) -> None:
        self._converter = converter

    @contextlib.contextmanager
    def built(
        self, start: Start, format: str = "", gone: Callable[[], bool] = never, *, publishes: bool = False
    ) -> Iterator[Path]:
        """Makes the file that a run which ends at a checkpoint publishes. It exists until the block ends.

        `format` is empty for that of the run's result. Raises UnknownCheckpointError if the checkpoint is gone,
        NotTrainableError if it `publishes` and a weight isn't finite, and as `Converter.converted` does.
        """
        with self._converter.working() as folder:
            arguments = {**_arguments(start, folder), "format": format or start.request.format or ""}
            arguments["publishes"] = publishes
            reply = self._run(BUILD, start, arguments, gone)
            yield folder / str(reply["file"])

    def predict(
        self, start: Start, inputs: Sequence[Tensor], outputs: Sequence[str], gone: Callable[[], bool] = never
    ) -> list[Tensor]:
        """Computes outputs of a checkpoint's model, by default all.

        Raises InvalidTensorError, UnknownInputError, MissingInputError or UnknownOutputError as for served models, and
        as `built` does.
        """
        with self._converter.working() as folder:
            for index, tensor in enumerate(inputs):
                (folder / f"{index}.in").write_bytes(tensor.data)
            given = [_described(tensor) for tensor in inputs]
            arguments = {**_arguments(start, folder), "inputs": given, "outputs": list(outputs)}
            reply = self._run(PREDICT, start, arguments, gone, PREDICT_SECONDS)
            return [
                Tensor(one["name"], one["dtype"], tuple(one["shape"]), (folder / f"{index}.out").read_bytes())
                for index, one in enumerate(reply["outputs"])
            ]

    def _run(
        self, job: Job, start: Start, arguments: Mapping[str, Any], gone: Callable[[], bool], *seconds: float
    ) -> dict[str, Any]:
        # A checkpoint has at least the weights.
        parameters = start.checkpoint.bytes // 4
        return self._converter.run(job, arguments, f"making the model of {start.name}", parameters, gone, *seconds)


def _arguments(start: Start, folder: Path) -> dict[str, Any]:
    """Returns the arguments that name a checkpoint. Links its file, which the run may replace meanwhile."""
    try:
        link_file(start.file, folder / STATE)
    except FileNotFoundError as error:
        raise UnknownCheckpointError(f"checkpoint '{start.name}' was removed") from error
    return {"base": str(start.model), "folder": str(folder), "request": start.request.to_json()}


def _described(tensor: Tensor) -> dict[str, Any]:
    return {name: value for name, value in asdict(tensor).items() if name != "data"}


# In the child process.


def build(arguments: Mapping[str, Any], channel: Channel) -> dict[str, Any]:
    """The job: saves the model of a checkpoint. Returns {"file"}."""
    request, model = _model(arguments)
    with as_published(model, request):
        if arguments["publishes"]:
            check_finite(model, Path(arguments["base"]))
        return {"file": saved(model, arguments)}


def predict(arguments: Mapping[str, Any], channel: Channel) -> dict[str, Any]:
    """The job: computes outputs, and writes their elements to files. Returns {"outputs"}."""
    request, model = _model(arguments)
    runner = ModelRunner(cast("Any", model))
    plan = runner.plan(arguments["outputs"])
    folder = Path(arguments["folder"])
    given = [(one["name"], read_array(folder / f"{index}.in", one)) for index, one in enumerate(arguments["inputs"])]
    names = tuple(arguments["outputs"]) or tuple(spec.name for spec in plan.output_specs)
    with as_published(model, request):
        results = runner(names, admit(plan, model.input_specs, given).arrays)
    return {"outputs": [write_array(folder / f"{i}.out", name, results[name]) for i, name in enumerate(names)]}


def _model(arguments: Mapping[str, Any]) -> tuple[RunRequest, Model]:
    """Returns the run's request, and the model that the run would have if it ended at the checkpoint in the folder."""
    import torch
    from layergraph import load_model
    from layergraph.training.checkpoint import read_whole
    from layergraph.training.restored_model import finished_model

    torch.set_num_threads(1)
    load_plugins()
    request = RunRequest.from_json(arguments["request"])
    model = load_model(Path(arguments["base"]), keep_lora=True)
    # As the published model computes, whatever precision the run has.
    prepare_model(model, replace(request, precision=None))
    _resolve(model, request)
    finished_model(model, read_whole(Path(arguments["folder"]) / STATE))
    return request, model


def _resolve(model: Model, request: RunRequest) -> None:
    """Resolves losses and metrics that depend on the shapes of the data, as some formats write them."""
    from layergraph.training.data_adapter import adapt_data

    few = list(zip(request.data, placeholders(request), strict=True))
    x, y = ({info.name: array for info, array in few if info.role is role} for role in (Role.X, Role.Y))
    if model.compilation is not None:
        adapt_data(model, model.compilation, x, y)
