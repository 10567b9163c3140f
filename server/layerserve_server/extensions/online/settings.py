"""Settings of online training."""

from __future__ import annotations

from pydantic import Field

from layerserve_server.settings.settings import Settings


class OnlineSettings(Settings):
    """The settings of a server with sessions of online training."""

    max_online_sessions: int = Field(
        default=2,
        ge=0,
        le=256,
        description=(
            "Maximum number of open sessions of online training, each in a process of its own; they take no training "
            "slots. 0 disables online training."
        ),
        json_schema_extra={"section": "Online training"},
    )
    online_idle_seconds: float = Field(
        default=300.0,
        gt=0,
        le=86400,
        description=(
            "Time without a request after which a session of online training is interrupted, in seconds. Its state is "
            "kept, and it can be resumed. Callers may set less."
        ),
    )
