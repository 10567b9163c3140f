"""A store through fsspec: the same in memory, in a folder and on an S3-compatible server, here and in a process."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import time
import uuid

import pytest
from layerserve_server.extensions.object_stores import program
from layerserve_server.extensions.object_stores import store as module
from layerserve_server.extensions.object_stores.objects import StoredObject, StoreError
from layerserve_server.extensions.object_stores.process import ProcessStore
from layerserve_server.extensions.object_stores.store import CHUNK, FsspecStore
from synced import synced


@pytest.fixture(params=["memory", "file", "s3", "s3 in another process"])
def store(request, tmp_path):
    # Before `s3`, whose variables end with the test.
    remote = request.getfixturevalue("remote") if "process" in request.param else None
    if request.param.startswith("s3"):
        request.getfixturevalue("s3")
        address = "s3://bucket/models"
    else:
        (tmp_path / "models").mkdir()
        address = f"file://{tmp_path}/models" if request.param == "file" else f"memory://{uuid.uuid4().hex}/models"
    one = remote or FsspecStore(address)
    yield one
    if one is not remote:
        one.close()


@pytest.fixture(scope="module")
def remote(s3_server):
    """A store on the S3-compatible server, in another process. All tests share it: it takes seconds to start."""
    one = ProcessStore("s3://bucket/models")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.environment.items():
            patch.setenv(name, value)
        yield one
    one.close()


def test_writing_listing_reading_and_deleting(store, tmp_path):
    content = os.urandom(CHUNK + 1000)
    (tmp_path / "upload").write_bytes(content)
    store.create("m/1/.publishing", "me")
    store.upload(tmp_path / "upload", "m/1/model.keras")
    store.write("m/labels.json", "{}")
    store.write("m/labels.json", '{"stable": 1}')
    assert {one.path: one.size for one in store.objects()} == {
        "m/1/.publishing": 2,
        "m/1/model.keras": len(content),
        "m/labels.json": 13,
    }
    assert {one.path for one in store.objects("m/1")} == {"m/1/.publishing", "m/1/model.keras"}
    assert store.objects("m/2") == []
    assert store.read("m/labels.json", 100) == '{"stable": 1}'
    digests = store.fetch([one for one in store.objects() if "model" in one.path], ["a/b.keras"], tmp_path / "out")
    assert (tmp_path / "out" / "a" / "b.keras").read_bytes() == content
    assert digests == {"a/b.keras": hashlib.sha256(content).hexdigest()}
    store.delete("m/1/.publishing")
    store.delete("m/1/.publishing")
    assert {one.path for one in store.objects("m/1")} == {"m/1/model.keras"}


def test_a_written_object_of_a_folder_survives_a_power_failure(tmp_path, monkeypatch):
    store = FsspecStore(f"file://{tmp_path}")
    events = synced(monkeypatch)
    store.write("m/labels.json", "{}")
    folder = (tmp_path / "m").stat().st_ino
    assert events == [("sync", 2), ("replace", "labels.json"), ("sync folder", folder)]


def test_a_new_content_has_a_new_identity(store):
    store.write("m/1/a", "one")
    (first,) = store.objects()
    assert store.objects() == [first]
    time.sleep(0.02)  # stores of files have their times only
    store.write("m/1/a", "two")
    (second,) = store.objects()
    assert first.identity
    assert second.identity != first.identity


def kind(call):
    with pytest.raises(StoreError) as raised:
        call()
    assert str(raised.value).isprintable()
    return raised.value.kind


def test_errors_have_their_kind(store, tmp_path):
    store.create("m/1/.publishing", "me")
    assert kind(lambda: store.create("m/1/.publishing", "you")) == "exists"
    assert store.read("m/1/.publishing", 10) == "me"
    assert kind(lambda: store.read("m/2/none", 10)) == "missing"
    assert kind(lambda: store.read("m/1/.publishing", 1)) == "refused"
    (one,) = store.objects()
    gone = StoredObject("m/1/gone", one.size, one.identity)
    assert kind(lambda: store.fetch([gone], ["x"], tmp_path / "a")) == "missing"
    other = StoredObject(one.path, one.size, "another")
    assert kind(lambda: store.fetch([other], ["x"], tmp_path / "b")) == "changed"
    longer = StoredObject(one.path, one.size + 1, one.identity)
    assert kind(lambda: store.fetch([longer], ["x"], tmp_path / "c")) == "changed"


def test_a_digest_of_the_store_is_compared(store, tmp_path):
    store.write("m/1/a", "one")
    (one,) = store.objects()
    wrong = StoredObject(one.path, one.size, one.identity, sha256="00" * 32)
    assert kind(lambda: store.fetch([wrong], ["x"], tmp_path / "a")) == "damaged"
    # The ETag of an encrypted object isn't its MD5 digest: two equal transfers are believed.
    encrypted = StoredObject(one.path, one.size, one.identity, md5="00" * 16)
    store.fetch([encrypted], ["x"], tmp_path / "b")
    assert (tmp_path / "b" / "x").read_text() == "one"


def test_an_object_that_ends_early_is_damaged(tmp_path, monkeypatch):
    store = FsspecStore(f"memory://{uuid.uuid4().hex}/models")
    store.write("m/1/a", "one two three")
    (one,) = store.objects()
    monkeypatch.setattr(store._files, "open", lambda *arguments, **options: io.BytesIO(b"one t"))
    assert kind(lambda: store.fetch([one], ["x"], tmp_path)) == "damaged"
    store.close()


def test_a_listing_without_an_end_is_refused(s3, monkeypatch):
    monkeypatch.setattr(module, "MAX_OBJECTS", 10)
    store = FsspecStore("s3://bucket/models")
    pages = []

    async def without_an_end(*arguments, **options):
        while len(pages) < 1000:
            pages.append([f"models/m/1/{len(pages)}-{number}" for number in range(4)])
            yield {"Contents": [{"Key": key, "Size": 1, "ETag": '"a"'} for key in pages[-1]]}

    monkeypatch.setattr(store._files, "_list_pages", without_an_end)
    with pytest.raises(StoreError, match="expected up to 10") as raised:
        store.objects()
    assert raised.value.kind == "refused"
    assert len(pages) == 3


def test_a_listing_is_sent_in_parts_when_it_has_changed(monkeypatch):
    monkeypatch.setattr(program, "PART", 2)
    one = program.Program(f"memory://{uuid.uuid4().hex}/models", io.StringIO())
    lines = []
    monkeypatch.setattr(one, "_write", lines.append)

    def listed(known):
        lines.clear()
        one.run({"id": 7, "do": "objects", "with": {"below": "", "known": known}})
        assert [StoredObject(*values) for line in lines[:-1] for values in line["part"]] in (
            [],
            one._opened().objects(),
        )
        return [len(line["part"]) for line in lines[:-1]], lines[-1]["result"]

    for number in range(5):
        one._opened().write(f"m/1/{number}", "one")
    parts, known = listed("")
    assert parts == [2, 2, 1]
    assert listed(known) == ([], known)
    one._opened().write("m/1/5", "one")
    parts, changed = listed(known)
    assert (parts, changed == known) == ([2, 2, 2], False)


def test_a_listing_that_has_not_changed_is_the_same_list(s3, remote):
    empty = remote.objects()
    s3.put("models/m/1/model.keras", "one")
    first = remote.objects()
    assert (len(empty), len(first)) == (0, 1)
    assert remote.objects() is first
    assert len(remote.objects("m/2")) == 0
    assert remote.objects() is first
    s3.put("models/m/1/model.keras", "two")
    assert remote.objects() != first


def test_a_single_file_is_a_root(s3, tmp_path):
    s3.put("models/m.keras", "model")
    s3.put("models/other.keras", "other")
    store = FsspecStore("s3://bucket/models/m.keras")
    (one,) = store.objects()
    assert one.path == "m.keras"
    store.fetch([one], ["m.keras"], tmp_path)
    assert (tmp_path / "m.keras").read_text() == "model"
    store.close()


def test_a_bucket_that_does_not_exist_is_not_empty(s3):
    assert FsspecStore("s3://bucket/nothing").objects() == []
    assert kind(FsspecStore("s3://no-such-bucket/models").objects) == "away"


def test_a_store_without_exclusive_creation_is_named(monkeypatch):
    store = FsspecStore("memory://models")
    monkeypatch.setattr(store, "_scheme", "hf")
    with pytest.raises(StoreError, match="hf:// can't create an object only if") as raised:
        store.create("m/1/.publishing", "me")
    assert raised.value.kind == "unsupported"


def test_an_object_that_changes_while_it_is_read_is_refused(s3, remote, tmp_path):
    first, second = os.urandom(3 * CHUNK), os.urandom(3 * CHUNK)
    s3.put("models/m/1/model.keras", first)
    (one,) = remote.objects()

    def change():
        s3.put("models/m/1/model.keras", second)

    # The first answer is that of the first part.
    s3.proxy.before_answer = change
    assert kind(lambda: remote.fetch([one], ["x"], tmp_path)) == "changed"
    (two,) = remote.objects()
    remote.fetch([two], ["y"], tmp_path)
    assert (tmp_path / "y").read_bytes() == second


def test_cut_answers_are_never_taken_for_the_object(s3, remote, tmp_path):
    s3.put("models/m/1/model.keras", os.urandom(CHUNK))
    (one,) = remote.objects()
    s3.proxy.cut_after = CHUNK // 2
    assert kind(lambda: remote.fetch([one], ["x"], tmp_path)) in ("away", "damaged")
    s3.proxy.cut_after = None
    remote.fetch([one], ["y"], tmp_path)


def test_a_server_that_does_not_answer_costs_its_process(s3, remote, monkeypatch):
    assert remote.objects() == []
    before = remote.pid
    s3.proxy.delay = 30
    began = time.monotonic()
    with monkeypatch.context() as patch:
        patch.setattr(remote, "_silent_seconds", 0.5)
        with pytest.raises(StoreError, match=r"no answer for 0\.5 s"):
            remote.objects()
    assert time.monotonic() - began < 10
    s3.proxy.delay = 0
    assert remote.objects() == []
    assert remote.pid != before


def test_a_closed_store_does_not_start_its_process():
    store = ProcessStore("s3://bucket/models")
    store.close()
    with pytest.raises(StoreError, match="the server is stopping"):
        store.objects()


def test_content_without_an_end_costs_no_more_memory_than_the_limit(s3, tmp_path):
    s3.put("models/m/1/model.keras", "one")
    remote = ProcessStore("s3://bucket/models", max_bytes=200 << 20)
    (one,) = remote.objects()
    s3.proxy.endless.add("models/m/1/model.keras")
    with pytest.raises(StoreError, match="takes more than 200 MiB of memory") as raised:
        remote.fetch([one], ["x"], tmp_path / "a")
    assert raised.value.kind == "away"
    s3.proxy.endless.clear()
    remote.fetch([one], ["x"], tmp_path / "b")
    assert (tmp_path / "b" / "x").read_text() == "one"
    remote.close()


def test_a_process_that_is_killed_is_started_again(s3, remote):
    remote.objects()
    before = remote.pid
    os.kill(before, signal.SIGKILL)
    end = time.monotonic() + 20
    while remote.pid == before and time.monotonic() < end:
        time.sleep(0.01)
    assert remote.objects() == []


@pytest.mark.parametrize(
    ("scheme", "root", "asked"), [("hf", "team/models/a/b", "team/models"), ("s3", "bucket/a/b", "bucket")]
)
def test_an_empty_store_is_there_if_its_bucket_or_repository_is(tmp_path, scheme, root, asked):
    store = FsspecStore(f"file://{tmp_path}")
    store._scheme, store._root = scheme, root
    paths = []
    store._files.exists = lambda path: paths.append(path) or True
    try:
        assert store.objects() == []
    finally:
        del store._files.exists
    assert paths == [asked]


class FileExpired(Exception):
    """As fsspec names it."""


@pytest.mark.parametrize(
    ("raised", "kind", "text"),
    [
        (FileExistsError("a"), "exists", "a/b: exists"),
        (FileNotFoundError("a"), "missing", "a/b: no such object"),
        (NotImplementedError(), "unsupported", "a/b: the store does not support this"),
        (NotImplementedError("no versions"), "unsupported", "a/b: no versions"),
        (MemoryError(), "refused", "a/b: takes too much memory"),
        (FileExpired("new etag"), "changed", "a/b: new etag"),
        (OSError("An error occurred (PreconditionFailed)"), "changed", "a/b: An error occurred (PreconditionFailed)"),
        (OSError("connection refused"), "away", "a/b: connection refused"),
        (ValueError(), "away", "a/b: ValueError"),
        (StoreError("damaged", "as it is"), "damaged", "as it is"),
    ],
    ids=repr,
)
def test_whatever_a_library_raises_has_a_kind(raised, kind, text):
    with pytest.raises(StoreError) as caught, module._as_store_errors("a/b"):
        raise raised
    assert (caught.value.kind, str(caught.value)) == (kind, text)
