"""The live view, driven by its keys, and its printed form."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from functools import partial

import numpy as np
import pytest
from layerserve import Client, PermissionDenied, TensorSpec, Unavailable
from layerserve.cli.top_readings import MODEL_COLUMNS, Reader

textual = pytest.importorskip("textual")

from layerserve.cli.top_view import MAX_ROWS, TopView  # noqa: E402
from textual.widgets import DataTable, Input, Static  # noqa: E402


def rows(app: TopView, id: str = "#models") -> list[list[str]]:
    table = app.query_one(id, DataTable)
    return [[cell.plain for cell in table.get_row_at(place)] for place in range(table.row_count)]


def names(app: TopView) -> list[str]:
    return [row[0] for row in rows(app)]


def text(app: TopView, id: str) -> str:
    return str(app.query_one(id, Static).content)


def drive(server, steps, interval: float = 0.2) -> None:
    """Runs the view on a terminal that isn't there, with `steps` for a user."""

    async def run() -> None:
        with Client(server.address, retries=0) as client:
            app = TopView(Reader(client), server.address, interval)
            async with app.run_test(size=(160, 40)) as pilot:

                async def until(condition) -> None:
                    end = time.monotonic() + 30
                    while not condition():
                        assert time.monotonic() < end, (text(app, "#head"), text(app, "#problems"), rows(app))
                        await pilot.pause(0.02)

                await until(lambda: rows(app))
                await steps(app, pilot, until)

    asyncio.run(run())


def test_rates_move_and_the_busiest_model_is_first(server):
    with Client(server.address) as caller:
        run = caller.train("double", np.ones((8, 3)), np.ones(8), epochs=2)
        run.wait()

        async def steps(app, pilot, until):
            assert len(rows(app)) == 4
            stop = threading.Event()

            def call():
                while not stop.wait(0.005):
                    caller.predict("two", {"left": [[1, 2]], "right": [[1, 2]]})

            thread = threading.Thread(target=call)
            thread.start()
            try:
                await until(lambda: names(app)[0] == "two" and rows(app)[0][3] not in ("", "0"))
            finally:
                stop.set()
                thread.join()
            assert "Rate/s▼" in [column.label.plain for column in app.query_one("#models", DataTable).columns.values()]
            # Without calls the rate falls to 0 again.
            await until(lambda: dict(zip(names(app), rows(app), strict=True))["two"][3] == "0")
            broken = dict(zip(names(app), rows(app), strict=True))["broken"]
            assert broken[2] == "failed: file is truncated"
            assert rows(app, "#runs")[0][:4] == [run.id, "double", "finished", "2/2"]
            assert "live" in text(app, "#head")

        drive(server, steps)


def test_keys_sort_reverse_filter_and_quit(server):
    async def steps(app, pilot, until):
        to_name = len(MODEL_COLUMNS) - MODEL_COLUMNS.index("#Rate/s")
        await pilot.press(*["s"] * to_name)
        assert names(app) == ["broken", "double", "shared", "two"]
        await pilot.press("r")
        assert names(app) == ["two", "shared", "double", "broken"]
        await pilot.press("S", "s")
        assert names(app) == ["broken", "double", "shared", "two"]
        await pilot.press("slash", *"OU")
        assert names(app) == ["double"]
        assert app.query_one("#filter", Input).has_focus
        # A letter that is a key of the view is text in the filter.
        await pilot.press("q")
        assert names(app) == []
        await pilot.press("backspace", "enter")
        assert names(app) == ["double"]
        await pilot.press("escape")
        assert len(names(app)) == 4
        await pilot.press("p")
        calls = len(server.calls)
        # Three intervals; one reading may be under way.
        await pilot.pause(0.6)
        assert len(server.calls) - calls <= 3
        assert "paused" in text(app, "#head")
        await pilot.press("q")
        await until(lambda: not app.is_running)

    drive(server, steps)


def test_a_server_that_is_away_and_comes_back_is_shown(server):
    async def steps(app, pilot, until):
        before = names(app)
        server.fail_next(Unavailable("restarting"), "ListModels", times=100_000)
        await until(lambda: "no answer" in text(app, "#head"))
        assert "server: " in text(app, "#problems")
        assert names(app) == before
        server._failures.clear()
        await until(lambda: "live" in text(app, "#head"))
        assert text(app, "#problems") == ""

    drive(server, steps)


def test_a_missing_right_leaves_the_rest(server):
    server.fail_next(PermissionDenied("caller 'shop' has no right 'read'"), "ListRuns", times=1000)

    async def steps(app, pilot, until):
        await until(lambda: "runs: " in text(app, "#problems"))
        assert "has no right 'read'" in text(app, "#problems")
        assert len(names(app)) == 4
        assert "live" in text(app, "#head")

    drive(server, steps)


def test_rates_that_are_not_known_any_more_are_not_shown(server):
    rate = MODEL_COLUMNS.index("#Rate/s")
    with Client(server.address) as client:
        reader = Reader(client)
        assert [row.cells[rate] for row in reader.read().models] == [""] * 4
        assert "0" in [row.cells[rate] for row in reader.read().models]
        server.fail_next(PermissionDenied("no right"), "GetModelStatistics")
        reading = reader.read()
        assert ([row.cells[rate] for row in reading.models], *reading.problems) == ([""] * 4, "rates")
        assert "0" in [row.cells[rate] for row in reader.read().models]


def test_hostile_names_are_shown_escaped_and_many_models_are_bounded(server):
    x = TensorSpec("x", (None, 1), "float32")
    for name in ("[bold]\x1b[31m", "q" * 500, *(f"m{number}" for number in range(150))):
        server.add_model(name, lambda arrays: arrays, [x], [x])

    async def steps(app, pilot, until):
        to_name = len(MODEL_COLUMNS) - MODEL_COLUMNS.index("#Rate/s")
        await pilot.press(*["s"] * to_name)
        assert names(app)[0] == "[bold]\\x1b[31m"
        assert len(names(app)) == MAX_ROWS + 1
        assert names(app)[-1] == "56 more; / filters"
        await pilot.press("slash", *"qqq")
        assert names(app) == ["q" * 79 + "…"]

    drive(server, steps, interval=60)


def test_one_reading_is_printed(cli, server):
    with Client(server.address) as caller:
        caller.train("double", np.ones((8, 3)), np.ones(8)).wait()
    status, out, _ = cli("top --once --interval 0.2")
    assert status == 0
    assert "4 models" in out
    assert "1 run" in out
    found = json.loads(cli("top --json --interval 0.2")[1])
    assert {row["Model"]: row["Rate/s"] for row in found["models"]}["double"] == "0"
    assert found["problems"] == {}
    server.fail_next(PermissionDenied("no right"), "ListRuns", times=2)
    status, out, err = cli("top --once --interval 0.2")
    assert status == 1
    assert "4 models" in out
    assert "runs: " in err


def test_a_server_that_does_not_answer_is_named_once(cli, monkeypatch):
    monkeypatch.setattr("layerserve.cli.options.Client", partial(Client, retries=0))
    status, _, err = cli("top --once --interval 0.2 --address 127.0.0.1:1")
    assert status == 1
    assert err.startswith("layerserve: server 127.0.0.1:1: can't connect to ")


def test_without_a_terminal_or_textual_it_is_refused(cli, monkeypatch):
    assert "no terminal, expected one, or --once" in cli("top")[2]
    monkeypatch.setitem(__import__("sys").modules, "layerserve.cli.top_view", None)
    monkeypatch.setattr("layerserve.cli.top.sys.stdout.isatty", lambda: True, raising=False)
    status, _, err = cli("top")
    assert status == 1
    assert "pip install textual" in err


def test_a_slow_reading_is_not_joined_by_another(server):
    async def steps(app, pilot, until):
        reading, may_end, read = threading.Event(), threading.Event(), app._reader.read
        begun = []

        def slowly():
            begun.append(None)
            reading.set()
            assert may_end.wait(30)
            return read()

        app._reader.read = slowly
        await until(reading.is_set)
        await pilot.pause(0.15)  # several intervals
        assert len(begun) == 1
        may_end.set()
        await until(lambda: len(begun) > 1)

    drive(server, steps, interval=0.02)


def test_a_reading_that_is_complete_when_the_app_has_ended_is_dropped(server):
    async def steps(app, pilot, until):
        reading = app._reading
        await app.screen.remove_children()
        app.post_message(app.Read(reading))
        await pilot.pause()
        assert app.return_code is None

    drive(server, steps, interval=60)
