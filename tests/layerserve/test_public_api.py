from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import layerserve
import pytest
from layerserve import AsyncClient, AsyncTrainingRun, Client, TrainingRun
from layerserve.blocking.datasets import Datasets
from layerserve.blocking.models import Management
from layerserve.blocking.run_reports import RunReports
from layerserve.blocking.sweeps import Sweep, Sweeping
from layerserve.datasets.api import AsyncDatasets
from layerserve.models.api import AsyncManagement
from layerserve.sweeps.api import AsyncSweep, AsyncSweeping
from layerserve.training.run_reports import AsyncRunReports

FOLDER = Path(layerserve.__file__).parent

PUBLIC = [
    "TLS",
    "Aborted",
    "AlreadyExists",
    "AsyncClient",
    "AsyncOnlineSession",
    "AsyncPreparedCall",
    "AsyncTrainingRun",
    "Cancelled",
    "Checkpoint",
    "CheckpointKept",
    "CheckpointNotFound",
    "Checkpoints",
    "Client",
    "ClientClosed",
    "DataLoss",
    "DatasetArray",
    "DatasetColumn",
    "DatasetInfo",
    "DatasetNotFound",
    "DeadlineExceeded",
    "EngineChoice",
    "EpochEnd",
    "EstimatedPublication",
    "EstimatedSeconds",
    "FailedPrecondition",
    "Forbidden",
    "Internal",
    "InvalidArgument",
    "InvalidTensor",
    "LabelNotFound",
    "LayerNode",
    "LayerNodes",
    "LayerNotFound",
    "LayerserveError",
    "LogLine",
    "MissingInput",
    "ModelChange",
    "ModelGraph",
    "ModelInfo",
    "ModelMismatch",
    "ModelNotFound",
    "ModelNotReady",
    "ModelStatistics",
    "NodeShapes",
    "NodeTensor",
    "NotCompiled",
    "NotFound",
    "OnlineSession",
    "OutOfRange",
    "Overloaded",
    "PermissionDenied",
    "PlaintextTokenWarning",
    "Prediction",
    "PreparedCall",
    "Publish",
    "QuotaExceeded",
    "Range",
    "Resources",
    "RunAccepted",
    "RunCancelled",
    "RunElsewhere",
    "RunEstimate",
    "RunFailed",
    "RunFile",
    "RunFinished",
    "RunInfo",
    "RunNotFound",
    "RunPaused",
    "RunQueued",
    "RunResumed",
    "RunSeries",
    "RunStarted",
    "SampleLosses",
    "ServerFile",
    "ServerInfo",
    "Split",
    "Statistics",
    "StepProgress",
    "SweepInfo",
    "TakenOver",
    "TensorSpec",
    "TokenExpired",
    "TooLarge",
    "TrainingCancelled",
    "TrainingEvent",
    "TrainingFailed",
    "TrainingRun",
    "Trial",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "UnknownError",
    "UnknownInput",
    "UnknownOutput",
    "VersionConflict",
    "VersionNotFound",
    "VersionWarning",
]

HEAVY = [
    "torch",
    "h5py",
    "typer",
    "rich",
    "layerserve_server",
    "layergraph",
    "layerserve_zoo",
    "keras",
    "pydantic",
    "google.rpc",
]


def test_the_public_names_are_these():
    assert sorted(layerserve.__all__) == sorted(PUBLIC)
    assert all(hasattr(layerserve, name) for name in PUBLIC)
    assert set(PUBLIC) <= set(dir(layerserve))
    with pytest.raises(AttributeError, match="No layerserve attribute client_"):
        _ = layerserve.client_


def test_every_error_is_public():
    from layerserve import errors

    named = {n for n, c in vars(errors).items() if isinstance(c, type) and issubclass(c, errors.LayerserveError)}
    assert named <= set(PUBLIC)


def imported(statement, names):
    """Returns which of these modules a new process has imported after a statement."""
    program = f"{statement}\nimport sys; print(*[name for name in {names} if name in sys.modules])"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize("module", ["*", "AsyncClient", "testing", "cli", "values"])
def test_importing_the_client_imports_nothing_heavy(module):
    assert imported(f"from layerserve import {module}", HEAVY) == []


@pytest.mark.parametrize("module", ["layerserve", "layerserve.cli"])
def test_what_uses_no_client_does_not_import_it(module):
    assert imported(f"import {module}", ["grpc", "numpy", "google.protobuf", "layerserve.blocking.client"]) == []
    assert imported("from layerserve import Client", ["grpc", "torch"]) == ["grpc"]


@pytest.mark.parametrize(
    ("blocking", "asynchronous"),
    [
        (Client, AsyncClient),
        (TrainingRun, AsyncTrainingRun),
        (Management, AsyncManagement),
        (RunReports, AsyncRunReports),
        (Datasets, AsyncDatasets),
        (Sweeping, AsyncSweeping),
        (Sweep, AsyncSweep),
    ],
)
def test_both_clients_have_the_same_methods_signatures_and_texts(blocking, asynchronous):
    names = {name for name in vars(blocking) if not name.startswith("_")}
    assert names == {name for name in vars(asynchronous) if not name.startswith("_")}
    for name in sorted(names | {"__init__"}):
        ours, theirs = getattr(blocking, name), getattr(asynchronous, name)
        assert parameters(ours) == parameters(theirs), name
        assert result(ours) == result(theirs), name
        assert ours.__doc__ == blocking_text(theirs.__doc__), name
        if name != "__init__":
            assert ours.__doc__, name
            assert inspect.iscoroutinefunction(theirs) or inspect.isasyncgenfunction(theirs), name
    assert hasattr(blocking, "__iter__") == hasattr(asynchronous, "__aiter__") == (blocking is TrainingRun)


#: Modules of the blocking client. Their first line names those of the asynchronous one.
TWINS = sorted(path for path in (FOLDER / "blocking").glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("twin", TWINS, ids=lambda path: path.stem)
def test_both_clients_do_the_same(twin):
    """Their methods have the same statements, so that what one of them is tested for holds for the other."""
    source = re.match(r"# Generated by `make client` from (.+\.py)\.", twin.read_text())[1]
    found, blocking = (methods_of(path.read_text()) for path in (FOLDER / source, twin))
    assert found == blocking
    assert found


def methods_of(source: str) -> dict[str, str]:
    """The statements of each method, as the blocking client has them."""
    plain = re.sub(r"\b(await|async) |Async", "", re.sub(r"__a(enter|exit|iter|next)__", r"__\1__", source))
    return {
        f"{kind.name}.{method.name}": "\n".join(map(ast.unparse, method.body[ast.get_docstring(method) is not None :]))
        for kind in ast.parse(plain).body
        if isinstance(kind, ast.ClassDef)
        for method in kind.body
        if isinstance(method, ast.FunctionDef)
    }


def test_runs_of_both_clients_say_the_same_of_their_events():
    assert TrainingRun.__iter__.__doc__ == AsyncTrainingRun.__aiter__.__doc__ is not None


def parameters(function) -> list[inspect.Parameter]:
    found = inspect.signature(function).parameters.values()
    return [p.replace(annotation=str(p.annotation).replace("Async", "")) for p in found]


def blocking_text(text: str | None) -> str | None:
    """A docstring of the asynchronous client without what only asyncio needs."""
    return text and re.sub(r"\bawait |\basync (?=for|with)|\bAsync(?=Client)", "", text)


def result(function) -> str:
    return str(inspect.signature(function).return_annotation).replace("Async", "")


def test_the_package_is_typed():
    from importlib.resources import files

    assert files("layerserve").joinpath("py.typed").is_file()
