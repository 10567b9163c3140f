"""The job of a run of scoring: that of the command `score`, with the run's own copy of the version."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerserve.errors import LayerserveError

from layerserve_server import errors
from layerserve_server.errors import InvalidRequestError, ServerError, UnknownDatasetError, safe_text
from layerserve_server.extensions.scoring.kind import ScoringOptions
from layerserve_server.jobs.channel import Channel
from layerserve_server.jobs.table import Job as ChildJob
from layerserve_server.repository.model_settings import SETTINGS_FILE
from layerserve_server.training.request import RunRequest
from layerserve_server.training.run_folder.layout import BASE, OF_KIND, UNFINISHED_FILES

if TYPE_CHECKING:
    # They need pyarrow, which a process that forks doesn't import.
    from layerserve.scoring.files.fragments import Source
    from layerserve.scoring.files.job import Job
    from layerserve.scoring.scorer import Scorer

#: The job that makes one in the folder of a run, to find out what doesn't fit.
CHECK = ChildJob(f"{__name__}:check_scoring", "reading the model and the dataset", queued=True, setting="check_seconds")
#: Errors of the server by their code, which is also that of the client's errors.
_BY_CODE: Mapping[str, type[ServerError]] = {
    kind.reason: kind
    for kind in (
        errors.InvalidTensorError,
        errors.UnknownInputError,
        errors.MissingInputError,
        errors.UnknownOutputError,
        errors.VersionFailedError,
    )
}


def scoring_job(folder: Path, request: RunRequest) -> Job:
    """Makes the job of the run in a folder.

    Raises UnknownDatasetError if its dataset is gone, and as `server_errors` does if the dataset doesn't fit the model.
    """
    options = ScoringOptions.of(request)
    with server_errors(folder):
        from layerserve.scoring.files.fragments import find
        from layerserve.scoring.files.job import Job
        from layerserve.scoring.files.locations import Location
        from layerserve.scoring.scorer import Scorer

        (data,) = (array.file for array in request.data)
        assert data is not None, "the data is a dataset"
        path = Path(data.folder, data.path)
        if not path.exists():
            raise UnknownDatasetError(f"{data.label} has been deleted")
        source = find(Location(str(path)), f"dataset {data.dataset[:12]}")
        scorer = Scorer(
            _version_folder(folder, request, options),
            version=request.version,
            outputs=list(options.outputs) or None,
            columns=options.columns,
            input_columns=options.input_columns,
        )
        return Job(
            scorer.with_input_columns(_columns_by_role(scorer, source)),
            source,
            Location(str(folder / UNFINISHED_FILES / options.to)),
            batch_size=options.batch_size or None,
            on_error="skip" if options.skip_bad_rows else "stop",
        )


def _version_folder(folder: Path, request: RunRequest, options: ScoringOptions) -> Path:
    """Returns the run's copy of the version as a folder of a repository, which says its name and number."""
    model = folder / OF_KIND / "model" / request.model
    model.mkdir(parents=True, exist_ok=True)
    if options.settings:
        (model / SETTINGS_FILE).write_text(options.settings, "utf-8")
    version = model / str(request.version)
    if not version.is_symlink():
        version.symlink_to(os.path.relpath(folder / BASE, model), target_is_directory=True)
    return version


def _columns_by_role(scorer: Scorer, source: Source) -> dict[str, str]:
    """Returns the arrays of a dataset that was uploaded as arrays, by input: they are called as for training."""
    from layerserve.scoring.files.readers import describe

    found = describe(source.kind, source.files[0])
    names = set() if found.problem else set(found.schema.names)
    columns: dict[str, str] = {}
    for place, (spec, of_input) in enumerate(scorer.sources()):
        if of_input != (spec.name,) or spec.name in names:
            continue
        roles = [f"x/{spec.name}", f"x/{place}", *(["x"] if len(scorer.inputs) == 1 else [])]
        if (role := next((role for role in roles if role in names), None)) is not None:
            columns[spec.name] = role
    return columns


@contextmanager
def server_errors(folder: Path) -> Iterator[None]:
    """In the block, errors of the client's modules become the server's. Texts have no paths of the run's folder."""
    try:
        yield
    except LayerserveError as error:
        kind = _BY_CODE.get(error.code or "", InvalidRequestError)
        raise kind(safe_text(str(error).replace(f"{folder}{os.sep}", ""))) from error


def check_scoring(arguments: Mapping[str, Any], channel: Channel) -> dict[str, Any]:
    """The job `CHECK`. Raises as `scoring_job` does."""
    import torch

    torch.set_num_threads(1)
    folder = Path(arguments["folder"])
    scoring_job(folder, RunRequest.read(folder))
    return {}
