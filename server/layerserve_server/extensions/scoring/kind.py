"""Scoring as a kind of run, and the options that only its runs have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from layerserve_server.records import checked
from layerserve_server.training.request import RunRequest
from layerserve_server.training.run_kind import RunKind

#: Name of the kind.
SCORING = "scoring"
#: Module of a run's process.
PROGRAM = "layerserve_server.extensions.scoring.program"


def scoring_kind(training_slots: int) -> RunKind:
    """Returns the kind for a server that has this number of training slots."""
    return RunKind(
        name=SCORING,
        # A slot of its own, as evaluations have, so that they don't wait for hours of training.
        slots=min(1, training_slots),
        off="scoring of datasets is off on this server: it has no training slots",
        program=PROGRAM,
        checked=False,
        ends_early=False,
        files_have_rows=True,
    )


@dataclass(frozen=True, slots=True)
class ScoringOptions:
    """The options of a run of scoring, as `ScoreRequest` has them. The dataset is the run's data."""

    #: Name of the result among the files of the run.
    to: str
    outputs: Sequence[str] = ()
    columns: Sequence[str] = ()
    input_columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    batch_size: int = 0
    skip_bad_rows: bool = False
    #: Number of rows of the dataset; 0 if its arrays have different numbers of them.
    rows: int = 0
    #: Content of the model's settings file when the run began; empty if there was none.
    settings: str = ""

    @classmethod
    def of(cls, request: RunRequest) -> ScoringOptions:
        """Returns the options of a run. Raises TypeError if they are damaged."""
        return checked(cls(**request.kind_options))
