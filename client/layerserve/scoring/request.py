"""The flow that begins a run of scoring on a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from layerserve.calls.flow import Flow, call
from layerserve.errors import InvalidArgument
from layerserve.models.info import model_spec
from layerserve.prediction.prediction import output_names
from layerserve.training.feed import RunFeed
from layerserve.training.options.kinds import repeatable, whole
from layerserve.v1.scoring_pb2 import InputColumns, ScoreRequest, ScoreResponse

#: What a row that can't be scored does.
OnError = Literal["stop", "skip"]


def score_dataset(
    model: str,
    dataset: Any,
    to: str,
    columns: str | Sequence[str],
    input_columns: Mapping[str, str | Sequence[str]] | None,
    outputs: str | Sequence[str] | None,
    version: int | None,
    label: str | None,
    batch_size: int | None,
    on_error: OnError,
    idempotency_key: str | None,
) -> Flow[RunFeed]:
    """Flow that begins a run. Raises InvalidArgument if an argument is invalid."""
    id = getattr(dataset, "id", dataset)
    if not isinstance(id, str) or not id:
        raise InvalidArgument(f"dataset: got {dataset!r}, expected the id of a dataset, or what client.datasets gives")
    if not isinstance(to, str):
        raise InvalidArgument(f"to: got {to!r}, expected the name of a file or folder, such as 'scores.parquet'")
    if on_error not in ("stop", "skip"):
        raise InvalidArgument(f"on_error: got {on_error!r}, expected 'stop' or 'skip'")
    request = ScoreRequest(
        model=model_spec(model, version, label),
        dataset=id,
        to=to,
        outputs=output_names(outputs),
        columns=_names(columns),
        input_columns=[
            InputColumns(input=name, columns=_names(several)) for name, several in (input_columns or {}).items()
        ],
        batch_size=0 if batch_size is None else whole(1).encode("batch_size", batch_size),
        skip_bad_rows=on_error == "skip",
        idempotency_key=repeatable(idempotency_key),
    )
    reply = yield from call(request, ScoreResponse)
    feed = RunFeed(reply.run.id)
    yield from feed.attach()
    return feed


def _names(given: str | Sequence[str]) -> list[str]:
    return [given] if isinstance(given, str) else list(given)
