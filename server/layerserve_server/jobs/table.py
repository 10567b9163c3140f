"""All jobs of the core: which function does each, and in which process it is called. Extensions have their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from layerserve_server.errors import InvalidRequestError, ServerError, VersionFailedError


@dataclass(frozen=True, slots=True)
class Job:
    """Work for a child process.

    `function` is "module:name" of what the child calls with the arguments, a JSON object, and the channel to the
    server; it returns the reply, a JSON object. `what` describes the job in error texts.
    """

    function: str
    what: str
    #: Whether the child is forked from the process that has imported torch.
    warm: bool = True
    #: Added to the niceness of the server.
    nice: int = 0
    #: Whether the job waits for one of a few slots. Others have slots of their own.
    queued: bool = False
    #: The server's setting that limits the time, for error texts; empty for none.
    setting: str = ""
    #: The error if the job fails in a way that it doesn't foresee: whose fault that is.
    failure: type[ServerError] = InvalidRequestError

    @property
    def module(self) -> str:
        """The module of the function."""
        return self.function.partition(":")[0]


def _check(function: str, what: str) -> Job:
    """A job that a call waits for before it is accepted."""
    return Job(f"layerserve_server.{function}", what, queued=True, setting="check_seconds")


# Without torch. The niceness is that of loading: requests come first.
READ_MODEL_FILE: Final = Job("layerserve_server.importing.job:read_model_file", "reading a model file", False, 5)
QUANTIZE: Final = Job("layerserve_server.engines.quantization_job:quantize", "quantizing a graph", False, 5)
READ_BODY: Final = Job("layerserve_server.services.rest.body_job:read_body", "reading the body", False, 5)

# With torch.
CHOOSE_ENGINES: Final = Job("layerserve_server.engines.tuning_job:choose_engines", "choosing engines", nice=5)
CHECK_TRAINING: Final = _check("training.checks.model_checks:check_training", "one step with two rows")
LOG_DIRECTION: Final = _check("training.checks.model_checks:log_direction", "compiling the model")
DESCRIBE_FILES: Final = _check("datasets.description:describe_files", "reading the data files")
DESCRIBE_DATASET: Final = _check("datasets.description:describe_dataset", "reading the dataset")
CONVERT: Final = Job(
    "layerserve_server.training.conversion:convert", "converting a file", nice=10, failure=VersionFailedError
)

JOBS: Final = (
    *(READ_MODEL_FILE, QUANTIZE, READ_BODY),
    *(CHOOSE_ENGINES, CHECK_TRAINING, LOG_DIRECTION, DESCRIBE_FILES, DESCRIBE_DATASET),
    CONVERT,
)
#: What the process with torch imports beside the modules of its jobs: the program of a run.
PROGRAMS: Final = ("layerserve_server.training.program.warm",)
