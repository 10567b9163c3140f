"""All of the page: the frame, which every caller may read, and the parts, with the rights of their methods."""

from __future__ import annotations

from collections.abc import Container, Mapping
from pathlib import Path

from layerserve_server.extensions.page.change_parts import ChangeParts
from layerserve_server.extensions.page.explain_part import ExplainPart
from layerserve_server.extensions.page.guard import Guard
from layerserve_server.extensions.page.model_parts import ModelParts
from layerserve_server.extensions.page.pages import FOLDER, SECURITY, Pages
from layerserve_server.extensions.page.run_parts import RunParts
from layerserve_server.extensions.page.served import Served
from layerserve_server.extensions.page.try_parts import TryParts
from layerserve_server.services.rest.body_reader import BodyReader
from layerserve_server.services.rest.probe_paths import ALIVE
from layerserve_server.transport.http.exchange import HttpReply, HttpRoute, Plain
from layerserve_server.transport.http.hosts import Hosts

#: Leads a browser to the page.
TO_PAGE = HttpReply(b"", (("location", "/ui"), ("cache-control", "no-store"), ("vary", "accept")), 302)
#: Files of the frame with their types.
FILES = {
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "graph.js": "text/javascript; charset=utf-8",
    "copy.js": "text/javascript; charset=utf-8",
    "predict.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


class Page:
    """The page of a server."""

    def __init__(self, served: Served, hosts: Hosts, reader: BodyReader, without: Container[str] = ()) -> None:
        """`hosts` has the names under which browsers reach the server; `reader` reads long bodies.

        `without` has the services that the server lacks: the page has no links to them.
        """
        self._pages = Pages(without)
        self._guard = Guard(hosts)
        self._reader = reader
        self._served = served

    def routes(self) -> list[HttpRoute]:
        """Returns the parts."""
        pages, guard, served = self._pages, self._guard, self._served
        parts = (ModelParts(pages, guard, served), RunParts(pages, guard), ChangeParts(pages, guard))
        return [
            *(route for one in parts for route in one.routes()),
            *TryParts(pages, guard, served, self._reader).routes(),
            ExplainPart(pages, guard, self._reader).route(),
        ]

    def plain(self) -> Mapping[str, Plain]:
        """Returns the replies of the frame, by path. They hold nothing of a model."""
        frame = self._pages.html("frame.html", secret=self._guard.secret, release=self._served.release)
        files = {f"/ui/{name}": _file(FOLDER / "static" / name, kind) for name, kind in FILES.items()}
        # With the slash it is the same page: all addresses in it are whole paths.
        return {"/": _root, "/ui": lambda _: frame, "/ui/": lambda _: frame, **files}


def _root(accept: str) -> HttpReply:
    return TO_PAGE if "text/html" in accept else ALIVE


def _file(path: Path, kind: str) -> Plain:
    reply = HttpReply(path.read_bytes(), (("content-type", kind), *SECURITY))
    return lambda _: reply
