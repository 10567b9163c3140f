"""All of the page: the frame, which every caller may read, and the parts, with the rights of their methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from layerserve_server.services.rest.body_reader import BodyReader
from layerserve_server.services.ui.change_parts import ChangeParts
from layerserve_server.services.ui.guard import Guard
from layerserve_server.services.ui.model_parts import ModelParts
from layerserve_server.services.ui.pages import FOLDER, SECURITY, Pages
from layerserve_server.services.ui.run_parts import RunParts
from layerserve_server.services.ui.try_parts import TryParts
from layerserve_server.transport.http.exchange import HttpReply, HttpRoute
from layerserve_server.transport.http.hosts import Hosts

#: Files of the frame with their types.
FILES = {
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "graph.js": "text/javascript; charset=utf-8",
    "predict.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


class Page:
    """The page of a server."""

    def __init__(self, release: str, hosts: Hosts, reader: BodyReader) -> None:
        """`hosts` has the names under which browsers reach the server; `reader` reads long bodies."""
        self._pages = Pages()
        self._guard = Guard(hosts)
        self._reader = reader
        self._release = release

    def routes(self) -> list[HttpRoute]:
        """Returns the parts."""
        pages, guard = self._pages, self._guard
        parts = (ModelParts(pages, guard), RunParts(pages, guard), ChangeParts(pages, guard))
        return [*(route for one in parts for route in one.routes()), *TryParts(pages, guard, self._reader).routes()]

    def plain(self) -> Mapping[str, Callable[[], HttpReply]]:
        """Returns the replies of the frame, by path. They hold nothing of a model."""
        frame = self._pages.html("frame.html", secret=self._guard.secret, release=self._release)
        files = {f"/ui/{name}": _file(FOLDER / "static" / name, kind) for name, kind in FILES.items()}
        return {"/ui": lambda: frame, **files}


def _file(path: Path, kind: str) -> Callable[[], HttpReply]:
    reply = HttpReply(path.read_bytes(), (("content-type", kind), *SECURITY))
    return lambda: reply
