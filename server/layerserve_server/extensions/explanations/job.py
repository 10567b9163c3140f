"""The job of an explanation. It reads the model anew, so that its memory and time are bounded and serving isn't."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from layerserve_server.errors import InvalidRequestError, InvalidTensorError, UnknownOutputError, VersionFailedError
from layerserve_server.inference.runner import Array, load_plugins
from layerserve_server.jobs.array_files import read_array, write_array
from layerserve_server.jobs.channel import Channel
from layerserve_server.jobs.jobs import Jobs
from layerserve_server.jobs.limits import JobLimits
from layerserve_server.jobs.table import Job
from layerserve_server.repository.layout import FoundVersion, model_fingerprint

EXPLAIN: Final = Job(f"{__name__}:explain", "explaining the output", nice=10, setting="explain_seconds")


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be explained: an element of each row of an output, for arrays by input.

    `target` has the indices of the element, or those of each row after one another; `axes` is the number of indices.
    """

    found: FoundVersion
    inputs: Mapping[str, Array]
    baselines: Mapping[str, Array]
    output: str
    to: Sequence[str]
    target: Sequence[int]
    axes: int
    steps: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """Attributions by tensor, and numbers by row (see `layergraph.explaining`)."""

    attributions: Mapping[str, Array]
    outputs: Array
    baseline_outputs: Array
    delta: Array


def explained(
    jobs: Jobs,
    question: Question,
    limits: JobLimits,
    gone: Callable[[], bool],
    hold: Callable[[int], None],
) -> Explanation:
    """Explains an output in a child process. `hold` is called with the size of the result before it is read.

    Raises InvalidRequestError, InvalidTensorError and UnknownOutputError, and as `Jobs.run` and `hold` do.
    """
    with tempfile.TemporaryDirectory(prefix="layerserve-explanation-") as name:
        folder = Path(name)
        arguments = {
            "model": str(question.found.path),
            "parts": question.found.parts,
            "fingerprint": question.found.model_fingerprint,
            "label": question.found.label,
            "folder": name,
            "inputs": _written(folder, "input", question.inputs),
            "baselines": _written(folder, "baseline", question.baselines),
            "output": question.output,
            "to": list(question.to),
            "target": list(question.target),
            "axes": question.axes,
            "steps": question.steps,
        }
        reply = jobs.run(EXPLAIN, arguments, limits, gone)
        described = reply["results"]
        paths = [folder / f"result-{index}" for index in range(len(described))]
        hold(2 * sum(path.stat().st_size for path in paths))
        arrays = list(map(read_array, paths, described))
    *attributions, outputs, baseline_outputs, delta = arrays
    names = [one["name"] for one in described[: len(attributions)]]
    return Explanation(dict(zip(names, attributions, strict=True)), outputs, baseline_outputs, delta)


def _written(folder: Path, what: str, arrays: Mapping[str, Array]) -> list[dict[str, Any]]:
    return [write_array(folder / f"{what}-{index}", *named) for index, named in enumerate(arrays.items())]


# In the child process.


def explain(arguments: Mapping[str, Any], channel: Channel) -> dict[str, Any]:
    """The job: writes the results to files. Returns {"results"}."""
    import numpy as np
    import torch
    from layergraph import load_model
    from layergraph.errors import DataError, ExplanationError, UnknownTensorError
    from layergraph.explaining.integrated_gradients import integrated_gradients

    torch.set_num_threads(1)
    # Gradients that vanish over the timesteps of a sequence become denormal, with which processors are slow.
    torch.set_flush_denormal(True)
    load_plugins()
    model = load_model(_unchanged(arguments))
    _unchanged(arguments)
    target = np.array(arguments["target"], np.int64)
    axes = arguments["axes"]
    if target.size != axes:
        target = target.reshape(-1, axes)
    try:
        found = integrated_gradients(
            model,
            _read(arguments, "input"),
            output=arguments["output"],
            to=arguments["to"],
            target=target,
            baselines=_read(arguments, "baseline"),
            n_steps=arguments["steps"],
        )
    except UnknownTensorError as error:
        raise UnknownOutputError(str(error)) from error
    except DataError as error:
        raise InvalidTensorError(str(error)) from error
    except ExplanationError as error:
        raise InvalidRequestError(str(error)) from error
    named = [*found.attributions.items(), ("outputs", found.outputs)]
    named += [("baseline_outputs", found.baseline_outputs), ("convergence_delta", found.delta)]
    folder = Path(arguments["folder"])
    return {"results": [write_array(folder / f"result-{index}", *pair) for index, pair in enumerate(named)]}


def _unchanged(arguments: Mapping[str, Any]) -> Path:
    """Returns the model's file. Raises VersionFailedError if it isn't the one that predicts."""
    path = Path(arguments["model"])
    try:
        now = list(model_fingerprint(path, arguments["parts"]))
    except OSError as error:
        raise VersionFailedError(f"{arguments['label']}: its file can't be read any more: {error.strerror}") from error
    if now != arguments["fingerprint"]:
        raise VersionFailedError(f"{arguments['label']}: its file was replaced after it was loaded; try again later")
    return path


def _read(arguments: Mapping[str, Any], what: str) -> dict[str, Array]:
    described = arguments[f"{what}s"]
    folder = Path(arguments["folder"])
    return {one["name"]: read_array(folder / f"{what}-{index}", one) for index, one in enumerate(described)}
