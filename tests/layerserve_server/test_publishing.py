"""Publishing: all of a version or nothing, never over another one."""

import json
import os
import subprocess
import sys
import threading

import pytest
from layerserve_server.repository import publishing
from layerserve_server.repository.publishing import (
    check_manifest,
    publish,
    read_labels,
    read_manifest,
    sweep,
    write_label,
)


@pytest.fixture
def result(tmp_path):
    def make(text="trained", name="result.keras"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return make


def test_a_version_appears_with_its_manifest(tmp_path, result):
    root = tmp_path / "models"
    assert publish(root, "m", result(), {"run": "r1", "base_version": 0}) == 1
    assert publish(root, "m", result("again"), {"run": "r2"}) == 2
    assert (root / "m" / "2" / "model.keras").read_text() == "again"
    manifest = read_manifest(root / "m" / "1")
    assert (manifest["run"], manifest["bytes"], manifest["file"]) == ("r1", 7, "model.keras")
    assert check_manifest(root / "m" / "1" / "model.keras", manifest) == ""
    assert sorted(os.listdir(root / "m")) == ["1", "2"]


def test_the_number_is_above_all_others(tmp_path, result):
    root = tmp_path / "models"
    (root / "m" / "41").mkdir(parents=True)
    assert publish(root, "m", result(), {}) == 42
    assert publish(root, "m", result(), {}, above=99) == 100


def test_two_publishers_never_take_the_same_number(tmp_path, result):
    files = [result(str(number), f"{number}.keras") for number in range(8)]
    start = threading.Barrier(len(files))
    versions = []

    def run(file):
        start.wait()
        versions.append(publish(tmp_path / "models", "m", file, {}))

    threads = [threading.Thread(target=run, args=(file,)) for file in files]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(versions) == list(range(1, 9))
    texts = {(tmp_path / "models" / "m" / str(v) / "model.keras").read_text() for v in versions}
    assert texts == {str(number) for number in range(8)}


def test_a_failure_leaves_nothing(tmp_path):
    with pytest.raises(FileNotFoundError):
        publish(tmp_path / "models", "m", tmp_path / "missing.keras", {})
    assert os.listdir(tmp_path / "models" / "m") == []


def test_a_file_on_another_filesystem_is_copied(tmp_path, result, monkeypatch):
    rename = os.rename

    def refuse(source, target):
        if str(source).endswith("result.keras"):
            raise OSError(18, "Invalid cross-device link")
        rename(source, target)

    monkeypatch.setattr(publishing.os, "rename", refuse)
    publish(tmp_path / "models", "m", result(), {})
    assert (tmp_path / "models" / "m" / "1" / "model.keras").read_text() == "trained"


def test_a_file_that_is_not_what_its_manifest_says_is_told(tmp_path, result):
    publish(tmp_path / "models", "m", result(), {})
    path = tmp_path / "models" / "m" / "1" / "model.keras"
    manifest = read_manifest(path.parent)
    path.write_text("trainex")
    assert "another sha256" in check_manifest(path, manifest)
    path.write_text("longer than it was")
    assert "its manifest says 7" in check_manifest(path, manifest)


PUBLISH_SLOWLY = """
import os, sys
from pathlib import Path
from layerserve_server.repository import publishing
def sync(path):
    print("syncing", path.name, flush=True)
    sys.stdin.readline()
publishing.sync = sync
file = Path(sys.argv[2]); file.write_text("trained")
publishing.publish(Path(sys.argv[1]), "m", file, {})
print("published", flush=True)
"""


@pytest.mark.parametrize("steps", range(4))
def test_a_publisher_killed_at_any_step_leaves_a_whole_version_or_none(tmp_path, steps):
    root = tmp_path / "models"
    with subprocess.Popen(
        [sys.executable, "-c", PUBLISH_SLOWLY, str(root), str(tmp_path / "result.keras")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        for _ in range(steps):
            process.stdout.readline()
            process.stdin.write("\n")
            process.stdin.flush()
        process.stdout.readline()
        process.kill()
    versions = publishing.version_numbers(root / "m")
    if steps < 3:
        assert versions == []
        assert len(sweep(root)) == 1
    else:
        assert versions == [1]
        assert check_manifest(root / "m" / "1" / "model.keras", read_manifest(root / "m" / "1")) == ""
    assert sweep(root) == []


def test_the_folder_of_a_publisher_that_works_is_not_swept(tmp_path):
    root = tmp_path / "models"
    folder = root / "m" / f".publish-{publishing.host_name()}-{os.getppid()}-abcdef"
    folder.mkdir(parents=True)
    other_host = root / "m" / ".publish-elsewhere-1-abcdef"
    other_host.mkdir()
    assert sweep(root) == []
    os.utime(other_host, (0, 0))
    assert sweep(root) == [other_host]


def test_labels_point_at_versions(tmp_path):
    assert read_labels(tmp_path) == {}
    write_label(tmp_path, "stable", 3)
    write_label(tmp_path, "canary", 4)
    assert read_labels(tmp_path) == {"stable": 3, "canary": 4}


@pytest.mark.parametrize("text", ["", "[", "[1]", json.dumps({"a b": 1, "c": "1", "d": -1, "e": True})])
def test_labels_that_are_wrong_are_left_out(tmp_path, text):
    (tmp_path / "labels.json").write_text(text)
    assert read_labels(tmp_path) == {}


def test_labels_are_not_read_through_a_link_or_a_pipe(tmp_path):
    (tmp_path / "real.json").write_text('{"stable": 3}')
    (tmp_path / "labels.json").symlink_to(tmp_path / "real.json")
    assert read_labels(tmp_path) == {}
    (tmp_path / "labels.json").unlink()
    os.mkfifo(tmp_path / "labels.json")
    assert read_labels(tmp_path) == {}
