"""Files are read by another process, whatever happens to it."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from layergraph import Input, Model, layers, load_model
from layergraph.archive import DEFAULT_LIMITS
from layergraph.archive.imported.form import ARRAYS, DESCRIPTION
from layergraph.archive.imported.opening import open_import
from layergraph.errors import CorruptFileError, ModelFileError, UnsafeFileError
from layergraph.models.loading import load_archive
from layerserve_server.importing import sandbox
from layerserve_server.importing.importer import Reading, reading
from layerserve_server.jobs.channel import MAX_MESSAGE, Channel
from layerserve_server.jobs.jobs import Jobs

FIXTURES = Path(__file__).parents[2] / "fixtures"


@pytest.fixture
def make_jobs() -> Iterator[Callable[[], Jobs]]:
    made = []

    def make() -> Jobs:
        made.append(Jobs())
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "read").mkdir()
    return tmp_path / "read"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    inputs = Input((3,))
    Model(inputs, layers.Dense(2)(inputs)).save(tmp_path / "model.keras")
    return tmp_path / "model.keras"


def read(jobs: Jobs, path: Path, folder: Path) -> Model:
    with reading(jobs, path, folder) as found:
        return load_archive(open_import(folder, path, DEFAULT_LIMITS, found.arrays))


@pytest.mark.parametrize(
    "name",
    [
        "keras2/headline.keras",
        "keras2/headline.h5",
        "text/keras3_idf.h5",
        "old_keras/1.2.2_theano_recurrent.h5",
        "saved_models/tf215/model/saved_model.pb",
        "saved_models/tf20/checkpoint/model.json",
    ],
)
def test_a_file_of_each_container_is_read_in_the_sandbox(name: str, folder: Path, jobs: Jobs) -> None:
    path = FIXTURES / name
    if not path.exists():
        path = next(FIXTURES.rglob(Path(name).name))
    expected, got = load_model(path), read(jobs, path, folder)
    for want, weight in zip(expected.weights, got.weights, strict=True):
        assert (weight.numpy() == want.numpy()).all()


def test_links_are_followed_to_their_files_only(tmp_path: Path, folder: Path, file: Path, jobs: Jobs) -> None:
    """As in volumes of Kubernetes, whose files are links."""
    (tmp_path / "store").mkdir()
    file.rename(tmp_path / "store" / "data")
    (tmp_path / "models").mkdir()
    link = tmp_path / "models" / "model.keras"
    link.symlink_to(tmp_path / "store" / "data")
    assert read(jobs, link, folder).count_params() == 8


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("SIGSEGV", r"model\.keras: crashes its parser \(SIGSEGV\), when another process reads it"),
        ("SIGFPE", r"crashes its parser \(SIGFPE\)"),
        ("exits", "ends its parser, when another process reads it"),
        ("takes memory", "needs more memory than"),
        ("loops", "takes too long, when another process reads it"),
    ],
)
def test_what_the_parser_does_is_an_error_of_the_file(
    fault: str, text: str, file: Path, folder: Path, faulty: Any, make_jobs: Any
) -> None:
    faulty(fault)
    jobs = make_jobs()
    for _ in range(2):
        with pytest.raises(CorruptFileError, match=text):
            read(jobs, file, folder)


def test_a_parser_that_waits_for_ever_is_ended(
    file: Path, folder: Path, faulty: Any, make_jobs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty("sleeps")
    monkeypatch.setattr("layerserve_server.importing.importer._SECONDS", 0.5)
    jobs = make_jobs()
    with pytest.raises(CorruptFileError, match=r"can't be read in [01] seconds"):
        read(jobs, file, folder)
    wait_for_no_child(jobs)


@pytest.mark.skipif(not sandbox.landlock_version(), reason="the kernel has no Landlock")
def test_a_parser_that_was_taken_over_reaches_no_other_file(
    file: Path, folder: Path, tmp_path: Path, faulty: Any, make_jobs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAULT_FILE", str(tmp_path / "elsewhere"))
    faulty("writes")
    with pytest.raises(ModelFileError, match="Permission denied"):
        read(make_jobs(), file, folder)
    assert not (tmp_path / "elsewhere").exists()
    # Also not the models beside it.
    (tmp_path / "other.keras").write_text("secret")
    monkeypatch.setenv("FAULT_FILE", str(tmp_path / "other.keras"))
    faulty("reads")
    with pytest.raises(ModelFileError, match="Permission denied"):
        read(make_jobs(), file, folder)


def test_an_error_of_the_file_is_that_of_reading_it_here(tmp_path: Path, folder: Path, jobs: Jobs) -> None:
    (tmp_path / "model.keras").write_bytes((FIXTURES / "keras2" / "headline.keras").read_bytes()[:3000])
    with pytest.raises(CorruptFileError) as expected:
        load_model(tmp_path / "model.keras")
    with pytest.raises(CorruptFileError) as caught:
        read(jobs, tmp_path / "model.keras", folder)
    assert str(caught.value) == str(expected.value)
    assert caught.value.path == str(tmp_path / "model.keras")


def test_a_folder_that_can_not_be_written_is_an_error_of_the_system(file: Path, tmp_path: Path, jobs: Jobs) -> None:
    with (
        pytest.raises(OSError, match=r"model\.keras: can't be read by another process: No such file"),
        reading(jobs, file, tmp_path / "absent"),
    ):
        pass


def test_a_file_that_is_not_read_to_the_end_leaves_no_process(file: Path, folder: Path, make_jobs: Any) -> None:
    jobs = make_jobs()
    with reading(jobs, file, folder):
        assert (folder / DESCRIPTION).exists()
        assert len(descendants(jobs._cold._process.pid)) == 2
    wait_for_no_child(jobs)
    assert not (folder / ARRAYS).exists()


def wait_for_no_child(jobs: Jobs) -> None:
    assert jobs._cold._process is not None
    deadline = time.monotonic() + 30
    while descendants(jobs._cold._process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def descendants(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
        return []
    found = [int(child) for child in children.split()]
    return found + [below for child in found for below in descendants(child)]


@pytest.mark.parametrize(
    ("reply", "kind", "text"),
    [
        (b"", ConnectionError, "has ended"),
        (b"{}", ConnectionError, "has ended"),
        (b"not json\n", ConnectionError, "no reply"),
        (b"[1]\n", ConnectionError, "no reply"),
        (b'{"died": "x", "late": false}\n', ConnectionError, "no reply"),
        (b'{"died": 9999, "late": false}\n', ConnectionError, "no reply"),
        (b'{"died": []}\n', ConnectionError, "no reply"),
        (b'{"failed": "KeyError"}\n', CorruptFileError, "ends its parser"),
        (b'{"error": 1}\n', ConnectionError, "no reply"),
        (b'{"error": ["os.system", "x", ["y"]]}\n', CorruptFileError, "y"),
        (b'{"error": ["UnsafeFileError", "../../x", ["y"]]}\n', UnsafeFileError, r"m\.h5: y"),
        (b'{"error": ["UnsafeFileError", "variables.index", ["y"]]}\n', UnsafeFileError, r"variables\.index: y"),
        (b'{"error": ["UnsafeFileError", 7, 8]}\n', ConnectionError, "no reply"),
        (b'{"system": ["x"]}\n', OSError, "x"),
        (b"x" * (MAX_MESSAGE + 1), ConnectionError, "too long"),
    ],
)
def test_any_reply_of_a_process_that_was_taken_over_is_an_error(reply: bytes, kind: Any, text: str) -> None:
    ours, theirs = socket.socketpair()
    sender = threading.Thread(target=lambda: (theirs.sendall(reply), theirs.shutdown(socket.SHUT_WR)))
    with ours, theirs:
        sender.start()
        with pytest.raises(kind, match=text):
            Reading(Channel(ours), Path("m.h5"), 5.0).check()
        # The rest of a reply that is too long.
        while ours.recv(1 << 16):
            pass
        sender.join(30)


def test_it_asks_for_arrays_by_number() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"{}\n")
        Reading(Channel(ours), Path("m.h5"), 5.0).arrays([(3, (1, 0)), (4, None)])
        assert json.loads(theirs.recv(1000)) == {"arrays": [[3, [1, 0]], [4, None]]}


def test_after_they_were_closed_nothing_is_started(file: Path, folder: Path) -> None:
    jobs = Jobs()
    jobs.close()
    with pytest.raises(OSError, match="closed"), reading(jobs, file, folder):
        pass
    assert jobs._cold._process is None
