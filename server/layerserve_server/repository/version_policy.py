"""Which versions of a model are kept loaded and served: as its settings have it, or a call in their place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import ValidationError

from layerserve_server.repository.model_settings import ModelSettings


@dataclass(frozen=True, slots=True)
class VersionPolicy:
    """A policy. The fields have the names and meanings of the model's settings."""

    version_policy: Literal["latest", "all", "specific"]
    latest_versions: int = 1
    specific_versions: tuple[int, ...] = ()

    @classmethod
    def of(cls, settings: ModelSettings) -> VersionPolicy:
        """Returns that of a model's settings."""
        # Sorted, so that policies with the same versions are equal.
        versions = tuple(sorted(set(settings.specific_versions)))
        return cls(settings.version_policy, settings.latest_versions, versions)

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> VersionPolicy | None:
        """Restores one from the values of `as_json`; None if they aren't valid."""
        try:
            return cls.of(ModelSettings.model_validate({**values}))
        except (ValidationError, TypeError):
            return None

    def as_json(self) -> dict[str, Any]:
        """Returns the settings that differ from their defaults."""
        if self.version_policy == "latest":
            return {"version_policy": "latest", "latest_versions": self.latest_versions}
        if self.version_policy == "all":
            return {"version_policy": "all"}
        return {"version_policy": "specific", "specific_versions": list(self.specific_versions)}

    def over(self, settings: ModelSettings) -> ModelSettings:
        """Returns a model's settings with this policy in place of theirs."""
        return settings.model_copy(update=asdict(self))

    def serves(self, version: int) -> bool:
        """Whether a version may be served."""
        return self.version_policy != "specific" or version in self.specific_versions

    def __str__(self) -> str:
        """For error texts: "latest 1", "all", "specific 1, 2"."""
        if self.version_policy == "latest":
            return f"latest {self.latest_versions}"
        return f"{self.version_policy} {', '.join(map(str, self.specific_versions))}".strip()
