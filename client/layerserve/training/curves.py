"""Curves of runs and sweeps as images, by matplotlib, and in notebooks."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerserve.errors import InvalidArgument
from layerserve.values.tables import Tabular, visible

#: Suffixes of files, which are names of matplotlib's formats.
FORMATS = ("png", "svg", "pdf")
#: Maximum number of points of a line that are marked, and of panels: matplotlib refuses higher images.
MARKED_POINTS, MAX_PANELS = 60, 50


@dataclass(frozen=True)
class Line:
    """A line of a panel. `best` is the point that is marked with a star; a `faint` line is one of many.

    `strong` is the opposite of `faint`; a line that is neither has a colour of its own.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    best: tuple[float, float] | None = None
    faint: bool = False
    strong: bool = False


@dataclass(frozen=True)
class Curves:
    """Panels above one another, by the name of their vertical axis. Images require matplotlib."""

    title: str
    x_label: str
    panels: Mapping[str, Sequence[Line]]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the curves as .png, .svg or .pdf, by the suffix of `path`. Returns the path.

        Raises InvalidArgument for another suffix, and if matplotlib is missing; OSError.
        """
        target = Path(path)
        kind = checked_format(target, "plot")
        target.write_bytes(self._image(kind))
        return target

    def svg(self) -> str:
        """Returns the curves as an SVG element, for HTML. Raises ImportError if matplotlib is missing."""
        drawn = self._image("svg").decode()
        return drawn[drawn.index("<svg") :]

    def _image(self, kind: str) -> bytes:
        from matplotlib.figure import Figure

        names = list(self.panels)[:MAX_PANELS]
        image = io.BytesIO()
        with _plain_text():
            figure = Figure(figsize=(6.4, 2.4 * max(1, len(names)) + 0.6), layout="constrained")
            left_out = f" ({len(names)} of {len(self.panels)} logs)" if len(names) < len(self.panels) else ""
            figure.suptitle(visible(self.title) + left_out)
            panels = figure.subplots(max(1, len(names)), squeeze=False)[:, 0]
            for panel, name in zip(panels, names, strict=False):
                _draw(panel, name, self.panels[name])
            panels[-1].set_xlabel(visible(self.x_label))
            figure.savefig(image, format=kind, dpi=120)
        return image.getvalue()


class Plotted(Tabular):
    """An object that notebooks show as curves, if matplotlib is installed, and a table."""

    __slots__ = ()

    def curves(self) -> Curves:
        """Returns the curves that are shown."""
        raise NotImplementedError

    def plot(self, path: str | os.PathLike[str]) -> Path:
        """Writes the curves as .png, .svg or .pdf, by the suffix of `path`. Requires matplotlib.

        Returns the path. Raises InvalidArgument for another suffix, and if matplotlib is missing; OSError.
        """
        return self.curves().save(path)

    def _repr_html_(self) -> str:
        """Returns the curves and the table for notebooks."""
        table, curves = self.table().html(), self.curves()
        if not any(curves.panels.values()):
            return table
        try:
            return f"<div>{curves.svg()}</div>{table}"
        except ImportError:
            return table


def checked_format(path: Path, what: str) -> str:
    """Returns the format for the suffix of a path.

    Raises InvalidArgument if there is none, or if matplotlib is missing.
    """
    kind = path.suffix.removeprefix(".").lower()
    if kind not in FORMATS:
        raise InvalidArgument(f"{what}: got {path}, expected a name that ends in .png, .svg or .pdf")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise InvalidArgument(f"{what}: requires matplotlib: pip install matplotlib") from None
    return kind


def log_names(names: Sequence[str]) -> list[str]:
    """Returns names of logs in order, each before its validation log."""
    return sorted(names, key=lambda name: (name.removeprefix("val_"), name.startswith("val_")))


def _draw(panel: Any, name: str, lines: Sequence[Line]) -> None:
    for line in lines:
        style: dict[str, Any] = {"marker": "." if len(line.x) <= MARKED_POINTS else ""}
        if line.faint:
            style |= {"color": "0.6", "linewidth": 0.8}
        elif line.strong:
            style |= {"color": "C3", "linewidth": 2.0}
        # What begins with an underscore isn't in the legend.
        (drawn,) = panel.plot(line.x, line.y, label=visible(line.label) or "_", **style)
        if line.best is not None:
            panel.plot(*line.best, marker="*", markersize=12, color=drawn.get_color(), label="_best")
    panel.set_ylabel(visible(name))
    if any(line.label for line in lines):
        panel.legend(fontsize="small")


@contextmanager
def _plain_text() -> Iterator[None]:
    """In the block, dollar signs in names aren't formulas, and characters that the font lacks no warnings.

    Names of logs come from model files, so they aren't trusted.
    """
    from matplotlib import rc_context

    with rc_context({"text.parse_math": False, "svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield
