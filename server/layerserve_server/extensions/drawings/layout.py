"""Where the boxes and lines of a graph are drawn: in layers, each call below those that it takes tensors from.

Linear in the number of boxes and lines but for sorting, since a model file decides how many there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: Sizes and distances, in pixels.
BOX_HEIGHT, ROW_GAP, COLUMN_GAP, MARGIN = 80, 34, 26, 24
#: Width of a character, and the range of a box's width.
LETTER, MIN_WIDTH, MAX_WIDTH = 7.8, 96, 280
#: How far a line that passes boxes runs beside them, and how many such tracks there are.
TRACK, TRACKS = 12, 8
#: Number of times that each row is sorted by where its neighbours are.
SWEEPS = 4


@dataclass(frozen=True, slots=True)
class Box:
    """The place of a call: the corner and the size."""

    x: float
    y: float
    width: float
    height: float = BOX_HEIGHT

    @property
    def middle(self) -> float:
        """The middle of its width."""
        return self.x + self.width / 2


@dataclass(frozen=True, slots=True)
class Layout:
    """The places of all boxes, in the order given, and the lines as SVG paths."""

    boxes: Sequence[Box]
    paths: Sequence[str]
    width: float
    height: float


def layout(widths: Sequence[float], lines: Sequence[tuple[int, int]]) -> Layout:
    """Places boxes of these widths. A line (a, b) means that b takes a tensor of a."""
    into: list[list[int]] = [[] for _ in widths]
    out: list[list[int]] = [[] for _ in widths]
    for source, target in lines:
        into[target].append(source)
        out[source].append(target)
    rank = _ranks(into, out)
    rows = _rows(rank, into, out)
    boxes = _boxes(rows, widths)
    right = max((box.x + box.width for box in boxes), default=0.0)
    bottom = max((box.y + box.height for box in boxes), default=0.0)
    paths = [_path(boxes[a], boxes[b], rank[b] - rank[a], right, number) for number, (a, b) in enumerate(lines)]
    beside = any(rank[b] - rank[a] != 1 for a, b in lines)
    return Layout(boxes, paths, right + MARGIN + (TRACK * TRACKS if beside else 0), bottom + MARGIN)


def text_width(lengths: Sequence[int]) -> float:
    """Returns the width of a box with lines of so many characters."""
    return min(MAX_WIDTH, max(MIN_WIDTH, 20 + LETTER * max(lengths, default=0)))


def _ranks(into: Sequence[Sequence[int]], out: Sequence[Sequence[int]]) -> list[int]:
    """Returns each box's row: one below the lowest box that it takes from."""
    rank = [0] * len(into)
    waiting = [len(sources) for sources in into]
    ready = [index for index, count in enumerate(waiting) if not count]
    done = 0
    while done < len(ready):
        index = ready[done]
        done += 1
        for target in out[index]:
            rank[target] = max(rank[target], rank[index] + 1)
            waiting[target] -= 1
            if not waiting[target]:
                ready.append(target)
    # A call that takes nothing stands right above what it is for.
    for index, sources in enumerate(into):
        if not sources and out[index]:
            rank[index] = max(0, min(rank[target] for target in out[index]) - 1)
    return rank


def _rows(rank: Sequence[int], into: Sequence[Sequence[int]], out: Sequence[Sequence[int]]) -> list[list[int]]:
    """Returns the boxes of each row, sorted so that few lines cross."""
    rows: list[list[int]] = [[] for _ in range(max(rank, default=-1) + 1)]
    for index, at in enumerate(rank):
        rows[at].append(index)
    place = [0.0] * len(rank)

    def number(row: Sequence[int]) -> None:
        for position, index in enumerate(row):
            place[index] = position - (len(row) - 1) / 2

    for row in rows:
        number(row)
    for sweep in range(SWEEPS):
        neighbours = into if sweep % 2 == 0 else out
        for row in rows if sweep % 2 == 0 else rows[::-1]:
            means = {
                index: sum(place[other] for other in neighbours[index]) / len(neighbours[index])
                if neighbours[index]
                else place[index]
                for index in row
            }
            row.sort(key=means.__getitem__)
            number(row)
    return rows


def _boxes(rows: Sequence[Sequence[int]], widths: Sequence[float]) -> list[Box]:
    lengths = [sum(widths[index] for index in row) + COLUMN_GAP * (len(row) - 1) for row in rows]
    widest = max(lengths, default=0.0)
    placed: dict[int, Box] = {}
    for number, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        x = MARGIN + (widest - length) / 2
        for index in row:
            placed[index] = Box(x, MARGIN + number * (BOX_HEIGHT + ROW_GAP), widths[index])
            x += widths[index] + COLUMN_GAP
    return [placed[index] for index in range(len(widths))]


def _path(source: Box, target: Box, rows: int, right: float, number: int) -> str:
    """Returns a line from the bottom of a box to the top of another; past other rows it runs on the right of all."""
    x1, y1, x2, y2 = source.middle, source.y + source.height, target.middle, target.y
    if rows == 1:
        bend = (y2 - y1) / 2
        return f"M{x1:.1f} {y1:.1f}C{x1:.1f} {y1 + bend:.1f} {x2:.1f} {y2 - bend:.1f} {x2:.1f} {y2:.1f}"
    edge = right + TRACK * (1 + number % TRACKS)
    y1, x1 = source.y + source.height / 2, source.x + source.width
    y2, x2 = target.y + target.height / 2, target.x + target.width
    return (
        f"M{x1:.1f} {y1:.1f}C{edge:.1f} {y1:.1f} {edge:.1f} {y1:.1f} {edge:.1f} {(y1 + y2) / 2:.1f}"
        f"C{edge:.1f} {y2:.1f} {edge:.1f} {y2:.1f} {x2:.1f} {y2:.1f}"
    )
