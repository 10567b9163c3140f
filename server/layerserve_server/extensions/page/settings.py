"""Settings of the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import Field, model_validator

from layerserve_server.settings.settings import Settings, spellings


class PageSettings(Settings):
    """The settings of a server with a page."""

    ui: bool = Field(
        default=False,
        description=(
            "Serve a page for browsers on the port for HTTP, at /ui. What it shows and changes needs the same rights "
            "as over gRPC."
        ),
        json_schema_extra={"section": "Page", "basic": True},
    )

    @model_validator(mode="after")
    def _page_has_a_port(self) -> PageSettings:
        if self.ui and self.http_port < 0:
            raise ValueError(f"{spellings('ui')}: got no port for HTTP, expected --http-port with it")
        return self

    def needed_modules(self) -> Iterator[tuple[str, Mapping[str, str]]]:
        """Adds the packages of the page."""
        yield from super().needed_modules()
        if self.ui:
            yield "ui", {"jinja2": "Jinja2", "PIL": "Pillow"}
