"""The graph of a model as an image, by graphviz, and in notebooks."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Literal

from layerserve.errors import InvalidArgument
from layerserve.models.dot import dot
from layerserve.models.node_shapes import NodeShapes

#: From top to bottom, or from left to right.
RankDir = Literal["TB", "LR"]

#: Suffixes of files, which are names of graphviz's formats.
FORMATS = ("svg", "png", "pdf", "dot")
#: Maximum time for graphviz, in seconds. A thousand nodes take some seconds.
SECONDS = 60.0


class ModelGraph:
    """A drawing of a model's nodes with their shapes, which notebooks show.

    Images require the program `dot` of graphviz. Where it is missing, notebooks show the table of the nodes.
    """

    def __init__(self, shapes: NodeShapes, rankdir: RankDir = "TB", limit: int = 1000) -> None:
        """Raises InvalidArgument for another `rankdir`, or if `limit` isn't positive."""
        if rankdir not in ("TB", "LR"):
            raise InvalidArgument(f"rankdir: got {rankdir!r}, expected 'TB' (top to bottom) or 'LR' (left to right)")
        if limit < 1:
            raise InvalidArgument(f"limit: got {limit}, expected a number of nodes from 1")
        self.shapes = shapes
        self._rankdir = rankdir
        self._limit = limit

    def dot(self) -> str:
        """Returns the graph in DOT, the language of graphviz."""
        return dot(self.shapes, self._rankdir, self._limit)

    def svg(self) -> str:
        """Returns the graph as an SVG element, for HTML. Raises InvalidArgument if graphviz is missing or fails."""
        drawn = self._image("svg").decode()
        return drawn[drawn.index("<svg") :]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the graph as .svg, .png, .pdf or .dot, by the suffix of `path`. Returns the path.

        Raises InvalidArgument for another suffix, and if graphviz is missing or fails; OSError.
        """
        target = Path(path)
        kind = checked_format(target)
        target.write_bytes(self.dot().encode() if kind == "dot" else self._image(kind))
        return target

    def _image(self, kind: str) -> bytes:
        program = shutil.which("dot")
        if program is None:
            raise InvalidArgument(
                f"graph: got the format {kind}, which requires graphviz (apt install graphviz, brew install graphviz); "
                "expected .dot without it"
            )
        try:
            done = subprocess.run(
                [program, f"-T{kind}"], input=self.dot().encode(), capture_output=True, timeout=SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise InvalidArgument(
                f"graph: graphviz took longer than {SECONDS:g} s, expected a smaller limit than {self._limit} nodes"
            ) from None
        if done.returncode:
            reason = " ".join(done.stderr.decode(errors="replace").split())
            raise InvalidArgument(f"graph: graphviz failed: {reason[:200]}")
        return done.stdout

    def _repr_html_(self) -> str:
        """Returns the drawing for notebooks, or the table of the nodes if graphviz is missing or fails."""
        try:
            return f'<div style="overflow: auto">{self.svg()}</div>'
        except InvalidArgument:
            return self.shapes.table().html()

    def __repr__(self) -> str:
        return f"ModelGraph({self.shapes!r})"


def checked_format(path: Path) -> str:
    """Returns the format for the suffix of a path. Raises InvalidArgument if there is none."""
    kind = path.suffix.removeprefix(".").lower()
    if kind not in FORMATS:
        endings = ", ".join(f".{one}" for one in FORMATS)
        raise InvalidArgument(f"graph: got the path {path}, expected one that ends in {endings}")
    return kind
