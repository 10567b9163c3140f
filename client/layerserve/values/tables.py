"""Tables of plain text, shown in notebooks as HTML and in terminals by rich."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import rich.table


@dataclass(frozen=True)
class Table:
    """A table of plain text; cells may have several lines. Columns whose name starts with '#' are numeric."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def html(self) -> str:
        """Returns the table as HTML. All text is escaped, since names come from model files."""
        aligned = ["right" if column.startswith("#") else "left" for column in self.columns]
        head = _html_row("th", aligned, [column.lstrip("#") for column in self.columns])
        body = "".join(_html_row("td", aligned, row) for row in self.rows)
        caption = f'<caption style="text-align: left">{html.escape(visible(self.title))}</caption>'
        return f"<table>{caption}<thead>{head}</thead><tbody>{body}</tbody></table>"

    def rich(self) -> rich.table.Table:
        """Returns the table for rich. Brackets aren't interpreted as markup, nor control characters by the terminal."""
        from rich.markup import escape
        from rich.table import Table as RichTable

        shown = RichTable(title=escape(visible(self.title)), title_justify="left", header_style="bold")
        for column in self.columns:
            justify = "right" if column.startswith("#") else "left"
            shown.add_column(escape(visible(column.lstrip("#"))), justify=justify, overflow="fold")  # type: ignore[arg-type]
        for row in self.rows:
            shown.add_row(*(escape(visible(cell)) for cell in row))
        return shown


class Tabular:
    """An object that notebooks, and `rich.print` in terminals, show as a table."""

    __slots__ = ()

    def table(self) -> Table:
        """Returns the table that is shown."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        """Returns the table for notebooks."""
        return self.table().html()

    def __rich__(self) -> rich.table.Table:
        """Returns the table for rich."""
        return self.table().rich()


def _html_row(tag: str, aligned: Sequence[str], cells: Sequence[str]) -> str:
    shown = (html.escape(visible(cell)).replace("\n", "<br>") for cell in cells)
    return (
        "<tr>"
        + "".join(
            f'<{tag} style="text-align: {side}">{text}</{tag}>' for side, text in zip(aligned, shown, strict=True)
        )
        + "</tr>"
    )


def visible(text: str) -> str:
    """Replaces control and formatting characters other than line breaks by their escapes: ESC becomes "\\x1b"."""
    if text.isprintable():
        return text
    return "".join(
        ascii(one)[1:-1] if unicodedata.category(one) in ("Cc", "Cf", "Cs") and one != "\n" else one for one in text
    )


def line_text(text: str, limit: int) -> str:
    """Returns a text as one visible line of at most `limit` characters; "…" is in place of the rest."""
    shown = visible(text).replace("\n", " ")
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def shape_text(shape: Sequence[int | None]) -> str:
    """Formats a shape as Keras does: "(None, 3)"."""
    return str(tuple(shape))


def number_text(value: float) -> str:
    """Formats a number with four digits, as Keras prints losses."""
    return f"{value:.4g}"


def logs_text(logs: Mapping[str, float]) -> str:
    """Formats losses and metrics: "loss=0.6931 accuracy=0.5"."""
    return " ".join(f"{name}={number_text(value)}" for name, value in logs.items())


def moment_text(time: datetime | None) -> str:
    """Formats a time in this machine's zone; an empty text for None."""
    return time.astimezone().strftime("%Y-%m-%d %H:%M:%S") if time else ""


def percent_text(share: float) -> str:
    """Formats a share from 0 to 1: "5%"."""
    return f"{100 * share:.6g}%"


def count_text(count: int, noun: str) -> str:
    """Returns a number with its noun: "1 version", "2 versions"."""
    return f"{count} {noun}{'s' * (count != 1)}"


def size_text(count: float) -> str:
    """Formats a number of bytes: "3.2 MB"."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 999.5:  # which three digits would round to 1e+03
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def time_text(seconds: float) -> str:
    """Formats a time: "0.32 s", "4 min 10 s", "2 h 5 min"."""
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
