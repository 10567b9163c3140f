"""Settings of the trackers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import Field, field_validator

from layerserve_server.settings.settings import Settings, comma_separated

#: Package of each kind of tracker, whose module has the kind's name.
PACKAGES = {"mlflow": "mlflow-skinny", "wandb": "wandb"}


class TrackerSettings(Settings):
    """The settings of a server whose runs are copied to trackers."""

    run_sinks: str = Field(
        default="",
        description=(
            "Comma-separated trackers to which runs are copied: mlflow:URI (package mlflow-skinny) and wandb:PROJECT "
            "(package wandb), each by a process of its own. A tracker that is slow or absent delays neither runs nor "
            "calls."
        ),
        json_schema_extra={"section": "Trackers", "unset": "none"},
    )

    @field_validator("run_sinks")
    @classmethod
    def _known_trackers(cls, value: str) -> str:
        for one in comma_separated(value):
            kind, _, where = one.partition(":")
            if kind not in PACKAGES or (kind == "mlflow" and not where):
                raise ValueError(f"got {one!r}, expected mlflow:URI or wandb:PROJECT")
        return value

    @property
    def trackers(self) -> tuple[str, ...]:
        """The trackers in `run_sinks`."""
        return comma_separated(self.run_sinks)

    def needed_modules(self) -> Iterator[tuple[str, Mapping[str, str]]]:
        """Adds the packages of the trackers."""
        yield from super().needed_modules()
        for kind in sorted({one.partition(":")[0] for one in self.trackers}):
            yield "run_sinks", {kind: PACKAGES[kind]}
