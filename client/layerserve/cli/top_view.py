"""The live view of `layerserve top`, by Textual."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import DataTable, Footer, Input, Static

from layerserve.cli.top_readings import MODEL_COLUMNS, RUN_COLUMNS, Reader, Reading, Row
from layerserve.values.tables import count_text, line_text, visible

#: Maximum number of rows of a table: a screen is filled by fewer, and each is drawn again at each reading.
MAX_ROWS = 100
#: Maximum number of characters of a cell.
MAX_CHARACTERS = 80


class TopView(App[None]):
    """Models with their rates above, and runs below. Reads the server every `interval` seconds."""

    CSS = """
    #head { height: 1; background: $panel; }
    #problems { height: auto; color: $error; }
    #filter { display: none; }
    #filter.shown { display: block; }
    #models { height: 2fr; }
    #runs { height: 1fr; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit"),
        Binding("s", "sort(1)", "Sort by the next column"),
        Binding("S", "sort(-1)", "by the one before", show=False),
        Binding("r", "reverse", "Reverse"),
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("escape", "clear_filter", "Clear the filter"),
        Binding("p", "pause", "Pause"),
    ]

    class Read(Message):
        """A reading that is complete."""

        def __init__(self, reading: Reading) -> None:
            super().__init__()
            self.reading = reading

    def __init__(self, reader: Reader, address: str, interval: float) -> None:
        super().__init__()
        self._reader = reader
        self._address = address
        self._interval = interval
        self._reading: Reading | None = None
        self._paused = False
        # By rate, the highest first.
        self._column = MODEL_COLUMNS.index("#Rate/s")
        self._reversed = True
        self._filter = ""

    def compose(self) -> ComposeResult:
        """Yields the widgets."""
        yield Static(id="head")
        yield Static(id="problems")
        yield Input(placeholder="part of the name of a model; Enter keeps it, Escape clears it", id="filter")
        with Vertical():
            yield DataTable[Text](id="models", cursor_type="row", zebra_stripes=True)
            yield DataTable[Text](id="runs", cursor_type="row", zebra_stripes=True)
        yield Footer()

    def on_mount(self) -> None:
        """Begins to read."""
        self.query_one("#models").focus()
        self._show()
        self.set_interval(self._interval, self._begin_reading)
        self._begin_reading()

    def on_unmount(self) -> None:
        """Ends a reading that is going on, for which quitting would wait."""
        self._reader.close()

    def _begin_reading(self) -> None:
        # A reading that takes longer than the interval isn't joined by another.
        if not self._paused and not any(worker.is_running for worker in self.workers if worker.group == "read"):
            self.run_worker(self._read, thread=True, group="read", exit_on_error=True)

    def _read(self) -> None:
        # Not `call_from_thread`, which waits, and so would keep an app that ends.
        self.post_message(self.Read(self._reader.read()))

    def on_top_view_read(self, event: Read) -> None:
        """Shows a reading."""
        self._reading = event.reading
        # One may be complete when the app ends and its widgets are gone.
        if self.query("#head"):
            self._show()

    def action_sort(self, step: int) -> None:
        """Sorts the models by another column."""
        self._column = (self._column + step) % len(MODEL_COLUMNS)
        self._reversed = MODEL_COLUMNS[self._column].startswith("#")
        self._show()

    def action_reverse(self) -> None:
        """Reverses the order of the models."""
        self._reversed = not self._reversed
        self._show()

    def action_pause(self) -> None:
        """Stops reading, or continues."""
        self._paused = not self._paused
        self._show()

    def action_filter(self) -> None:
        """Shows the line for a part of a name."""
        line = self.query_one("#filter", Input)
        line.add_class("shown")
        line.focus()

    def action_clear_filter(self) -> None:
        """Shows all models and runs."""
        self.query_one("#filter", Input).value = ""
        self._close_filter()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Shows what the filter lets through."""
        self._filter = event.value.strip().lower()
        self._show()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Keeps the filter."""
        self._close_filter()

    def _close_filter(self) -> None:
        self.query_one("#filter").remove_class("shown")
        self.query_one("#models").focus()

    def _show(self) -> None:
        reading = self._reading
        self.query_one("#head", Static).update(Text(self._head(reading)))
        problems = reading.problems if reading is not None else {}
        lines = "\n".join(f"{what}: {visible(text)}" for what, text in problems.items())
        self.query_one("#problems", Static).update(Text(lines))
        if reading is not None:
            models = [row for row in reading.models if self._filter in row.key.lower()]
            models.sort(key=lambda row: row.values[self._column], reverse=self._reversed)
            runs = [row for row in reading.runs if self._filter in f"{row.cells[1]} {row.key}".lower()]
            self._fill("#models", MODEL_COLUMNS, models, self._column)
            self._fill("#runs", RUN_COLUMNS, runs)

    def _head(self, reading: Reading | None) -> str:
        if reading is None:
            return f"layerserve at {self._address}: connecting"
        time = reading.time.astimezone().strftime("%H:%M:%S")
        state = "no answer" if "server" in reading.problems else "paused" if self._paused else "live"
        parts = [f"layerserve at {self._address}", f"{state}, {time}", count_text(len(reading.models), "model")]
        parts.append(count_text(len(reading.runs), "run"))
        if self._filter:
            parts.append(f"only {visible(self._filter)}")
        return "   ".join(parts)

    def _fill(self, id: str, columns: Sequence[str], rows: Sequence[Row], sorted_by: int | None = None) -> None:
        table: DataTable[Any] = self.query_one(id, DataTable)
        place, top = table.cursor_row, table.scroll_offset
        table.clear(columns=True)
        for number, column in enumerate(columns):
            arrow = ("▼" if self._reversed else "▲") if number == sorted_by else ""
            justify = "right" if column.startswith("#") else "left"
            table.add_column(Text(column.removeprefix("#") + arrow, justify=justify))  # type: ignore[arg-type]
        for row in rows[:MAX_ROWS]:
            cells = zip(columns, row.cells, strict=True)
            table.add_row(*(_cell(cell, right=column.startswith("#")) for column, cell in cells), key=row.key)
        if len(rows) > MAX_ROWS:
            more = f"{len(rows) - MAX_ROWS:,} more; / filters"
            table.add_row(Text(more), *(Text("") for _ in columns[1:]))
        table.move_cursor(row=min(place, max(0, table.row_count - 1)), animate=False)
        table.scroll_to(top.x, top.y, animate=False)


def _cell(text: str, *, right: bool) -> Text:
    return Text(line_text(text, MAX_CHARACTERS), justify="right" if right else "left", no_wrap=True)
