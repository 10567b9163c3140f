"""Settings of stores."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import Field

from layerserve_server.extensions.object_stores.addresses import expected, folder_name, is_address, modules
from layerserve_server.settings.settings import Settings


class StoreSettings(Settings):
    """The settings of a server whose PATH may be an address."""

    remote_poll_seconds: float = Field(
        default=30.0,
        ge=0.05,
        le=86400,
        description=(
            "Interval between listings of a store, in seconds, if PATH is the address of a repository folder or a "
            "model file there: s3://, gs://, az://, abfs:// or hf://; or of a model in MLflow: models:/ or runs:/."
        ),
        json_schema_extra={"section": "Stores", "basic": True},
    )
    cache_bytes: int = Field(
        default=0,
        ge=0,
        description=(
            "Maximum size of the copies of a store's versions, in bytes. Copies of versions that aren't loaded are "
            "removed, those used longest ago first. 0: limited only by free disk space. They are in 'remote' in the "
            "state folder, which for an address is by default a folder in ~/.local/state/layerserve."
        ),
    )

    @classmethod
    def source_of(cls, path: str) -> str:
        """Returns an address without the slash at its end; empty if PATH isn't one. Raises ValueError."""
        if not is_address(path):
            return super().source_of(path)
        if wanted := expected(path):
            raise ValueError(wanted)
        return path.rstrip("/")

    @property
    def address(self) -> str:
        """Address of the store with the models; empty if they are in a folder of this machine."""
        return self.path if isinstance(self.path, str) and is_address(self.path) else ""

    @property
    def root(self) -> Path:
        """For an address the folder of its copies."""
        return self.mirror_folder / "models" if self.address else super().root

    @property
    def mirror_folder(self) -> Path:
        """Folder of what is kept of the store."""
        return self.state_folder / "remote" / folder_name(self.address)

    @property
    def state_folder(self) -> Path:
        """For an address by default a folder of the user's."""
        if self.state is not None or not self.address:
            return super().state_folder
        home = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser()
        return home / "layerserve" / folder_name(self.address)

    def needed_modules(self) -> Iterator[tuple[str, Mapping[str, str]]]:
        """Adds the packages of the store."""
        yield from super().needed_modules()
        if self.address:
            yield "path", modules(self.address)
