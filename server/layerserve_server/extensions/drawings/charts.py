"""Line charts: series of numbers to the points, ticks and words that a template draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

WIDTH, HEIGHT = 420, 190
#: Space for the ticks' numbers and around the lines, in pixels.
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 10, 26
#: Number of ticks to aim at.
TICKS = 5
#: Number of series in a chart; the style sheet has as many colours.
MAX_SERIES = 8


@dataclass(frozen=True, slots=True)
class Series:
    """A named line. Values that aren't finite leave a gap."""

    name: str
    positions: Sequence[float]
    values: Sequence[float]


@dataclass(frozen=True, slots=True)
class Line:
    """A drawn series."""

    name: str
    #: Points of each stretch without a gap, as SVG's `points` has them.
    stretches: Sequence[str]
    #: The newest value, and where it is; None if there is none.
    last: float | None
    at: float


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing of `WIDTH` by `HEIGHT` pixels."""

    title: str
    axis: str
    lines: Sequence[Line]
    across: Sequence[Tick]
    up: Sequence[Tick]
    width: int = field(default=WIDTH, init=False)
    height: int = field(default=HEIGHT, init=False)
    left: int = field(default=LEFT, init=False)
    right: int = field(default=WIDTH - RIGHT, init=False)
    top: int = field(default=TOP, init=False)
    bottom: int = field(default=HEIGHT - BOTTOM, init=False)

    @property
    def words(self) -> str:
        """The newest values, for readers who don't see the lines."""
        said = [
            f"{line.name} {line.last:.4g} at {self.axis} {line.at:g}" for line in self.lines if line.last is not None
        ]
        return f"{self.title}: {', '.join(said) or 'no values yet'}"


def chart(title: str, axis: str, series: Sequence[Series], *, from_zero: bool = False, whole: bool = False) -> Chart:
    """Draws at most `MAX_SERIES` series. `axis` is what positions count, and `whole` whether in whole numbers."""
    series = series[:MAX_SERIES]
    finite = [value for one in series for value in one.values if math.isfinite(value)]
    if from_zero:
        finite.append(0.0)
    across = _span([position for one in series for position in one.positions])
    up = _span(finite)

    def x(position: float) -> float:
        return LEFT + (position - across[0]) / (across[1] - across[0]) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (value - up[0]) / (up[1] - up[0]) * (HEIGHT - TOP - BOTTOM)

    lines = [Line(one.name, _stretches(one, x, y), *_last(one)) for one in series]
    return Chart(
        title,
        axis,
        lines,
        [Tick(x(value), f"{value:,.0f}" if whole else f"{value:.6g}") for value in ticks(*across, whole=whole)],
        [Tick(y(value), f"{value:.4g}") for value in ticks(*up)],
    )


def ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Returns round numbers from `low` to `high`, and whole ones if `whole`."""
    step = 10 ** math.floor(math.log10((high - low) / TICKS))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= TICKS)
    if whole:
        step = max(1.0, step)
    first = math.ceil(low / step)
    return [count * step for count in range(first, math.floor(high / step) + 1)]


def _span(values: Sequence[float]) -> tuple[float, float]:
    """Returns the range of an axis, which is never empty, and never too large to subtract."""
    if not values:
        return 0.0, 1.0
    low, high = (max(-1e300, min(1e300, end)) for end in (min(values), max(values)))
    if high - low <= max(1e-300, 1e-9 * max(abs(low), abs(high))):
        margin = abs(high) * 0.5 if abs(high) > 1e-290 else 0.5
        return low - margin, high + margin
    return low, high


def _stretches(series: Series, x: Callable[[float], float], y: Callable[[float], float]) -> list[str]:
    found: list[list[str]] = [[]]
    for position, value in zip(series.positions, series.values, strict=True):
        if math.isfinite(value):
            found[-1].append(f"{x(position):.1f},{y(max(-1e300, min(1e300, value))):.1f}")
        elif found[-1]:
            found.append([])
    return [" ".join(points) for points in found if points]


def _last(series: Series) -> tuple[float | None, float]:
    return (series.values[-1], series.positions[-1]) if series.values else (None, 0.0)
