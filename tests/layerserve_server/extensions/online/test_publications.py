"""Versions that a session publishes: each once, in order, whatever is killed between."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from damaged_files import TEXTS
from layerserve_server.errors import NotTrainableError
from layerserve_server.extensions.online import publications
from layerserve_server.extensions.online.kind import online_kind
from layerserve_server.extensions.online.publications import Publications, Published
from layerserve_server.training import events
from layerserve_server.training.event_log import EventLog
from layerserve_server.training.request import RunRequest
from layerserve_server.training.run_folder.layout import result_file
from layerserve_server.training.run_folder.result import RunResult
from layerserve_server.training.run_kind import RunKind
from layerserve_server.training.runs.run import Run

REQUEST = RunRequest("m", 4, (), publish_label="new")


def ask(folder: Path, *steps: int) -> None:
    def save(path: Path) -> None:
        path.write_text("model")

    for step in steps:
        publications.request(folder, step, ".keras", save)


def publishing(publish: Callable[[Path, int], int]) -> Any:
    """A repository that publishes a file, with its number of steps, in this way."""

    def publish_once(model: str, file: Path, **options: Any) -> int:
        step = int(options.pop("checkpoint").removeprefix("step-"))
        assert (model, options) == ("m", {"run": file.parents[2].name, "base_version": 4, "label": "new"})
        return publish(file, step)

    return SimpleNamespace(publisher=SimpleNamespace(publish_once=publish_once))


def test_files_are_published_in_order_and_noted(tmp_path: Path) -> None:
    ask(tmp_path, 20, 3)
    held = Publications(tmp_path, REQUEST)
    called: list[int] = []
    assert held.is_pending(3)
    assert publications.newest(tmp_path) == 20

    def publish(path: Path, step: int) -> int:
        path.unlink()  # as the repository does
        assert held.is_pending(step)
        return step + 100

    with held.watchers.watched(lambda: called.append(held.count)):
        held.publish(publishing(publish))
    held.publish(publishing(lambda path, step: pytest.fail("nothing is left")))
    assert [(one.step, one.version) for one in held.outcomes(0)] == [(3, 103), (20, 120)]
    assert [one.step for one in held.outcomes(1)] == [20]
    assert held.outcomes(2) == []
    assert called == [1, 2]
    assert held.last == Published(20, 120)
    assert not held.is_pending(3)
    assert publications.newest(tmp_path) == 20


def test_what_can_not_be_published_is_dropped_and_can_be_asked_for_again(tmp_path: Path) -> None:
    ask(tmp_path, 3)
    held = Publications(tmp_path, REQUEST)

    def refuse(path: Path, step: int) -> int:
        raise NotTrainableError("the repository can't be written: read-only")

    held.publish(publishing(refuse))
    (outcome,) = held.outcomes(0)
    assert str(outcome.error) == "the repository can't be written: read-only"
    assert (held.last, publications.newest(tmp_path)) == (None, 0)
    ask(tmp_path, 3)
    held.publish(publishing(lambda path, step: 2))
    assert held.last == Published(3, 2)


def test_a_server_that_was_killed_after_publishing_publishes_again(tmp_path: Path) -> None:
    """That finds the version of the first time: see Publisher.publish_once."""
    ask(tmp_path, 3)

    def die(path: Path, step: int) -> int:
        raise SystemExit

    with pytest.raises(SystemExit):
        Publications(tmp_path, REQUEST).publish(publishing(die))
    steps: list[int] = []
    Publications(tmp_path, REQUEST).publish(publishing(lambda path, step: steps.append(step) or 2))
    assert steps == [3]


def test_only_whole_files_are_published(tmp_path: Path) -> None:
    def half(path: Path) -> None:
        path.write_text("mo")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        publications.request(tmp_path, 3, ".keras", half)
    assert publications.pending(tmp_path) == []


@pytest.mark.parametrize("text", TEXTS)
def test_a_damaged_note_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / publications.NOTE).write_text(text)
    assert publications.read_published(tmp_path) is None


def test_it_has_the_version_of_its_note(tmp_path: Path) -> None:
    assert Publications(tmp_path, REQUEST).version == 0
    (tmp_path / publications.NOTE).write_text('{"step": 7, "version": 4}')
    assert Publications(tmp_path, REQUEST).version == 4


@pytest.mark.parametrize(
    ("kind", "publishable"), [(RunKind(name="training", slots=1, off=""), True), (online_kind(1), False)]
)
def test_a_session_that_has_ended_is_published_no_more(tmp_path: Path, kind: RunKind, publishable: bool) -> None:
    result_file(tmp_path).parent.mkdir()
    result_file(tmp_path).write_text("model")
    RunResult("trained").write(tmp_path)
    events.append(tmp_path, events.Finished(0, {}, 1.0))
    request = RunRequest("m", 4, (), kind=kind.name)
    run = Run("run", tmp_path, request, EventLog.read(tmp_path), kind)
    assert run.publishable is publishable
