"""Settings of samples of requests."""

from __future__ import annotations

from fnmatch import fnmatchcase

from pydantic import Field, field_validator

from layerserve_server.settings.fields import GIB, MIB
from layerserve_server.settings.settings import Settings, comma_separated


class MirroringSettings(Settings):
    """The settings of a server that keeps samples of requests."""

    sample_models: str = Field(
        default="",
        description=(
            "Comma-separated names or patterns of models, each with the share of its requests whose rows and answers "
            "are kept in files of the state folder, such as 'text-*=0.01,mnist=1'. The first that fits counts."
        ),
        json_schema_extra={"section": "Samples of requests", "unset": "none"},
    )
    sample_max_bytes: int = Field(
        default=GIB,
        ge=MIB,
        description="Maximum size of these files together, in bytes. Beyond it the oldest are removed.",
    )

    @field_validator("sample_models")
    @classmethod
    def _known_shares(cls, value: str) -> str:
        sample_shares(value)
        return value

    def sample_share(self, model: str) -> float:
        """Share of a model's requests that are kept, from 0 to 1."""
        found = (share for pattern, share in sample_shares(self.sample_models) if fnmatchcase(model, pattern))
        return next(found, 0.0)


def sample_shares(text: str) -> list[tuple[str, float]]:
    """Returns the patterns and shares in `sample_models`. Raises ValueError if the text isn't a list of them."""
    found = []
    for entry in comma_separated(text):
        pattern, _, share = entry.rpartition("=")
        try:
            number = float(share)
        except ValueError:
            number = -1.0
        if not pattern.strip() or not 0 <= number <= 1:
            raise ValueError(f"MODEL=SHARE with a share from 0 to 1 in '{entry}'")
        found.append((pattern.strip(), number))
    return found
