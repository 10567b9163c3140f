"""Labels of classes: which files are read, what is wrong with one, and that changes are followed."""

from __future__ import annotations

import os

import pytest
from layerserve_server.errors import VersionFailedError
from layerserve_server.repository.class_labels import MAX_LABEL_BYTES
from layerserve_server.repository.version_states import State


@pytest.fixture
def put_labels(put, tmp_path):
    """Puts a model, its settings, and a file with labels at a path below the model's folder."""

    def put_files(content, at="1/labels.txt", setting='y = "labels.txt"'):
        put("double")
        folder = tmp_path / "models" / "double"
        (folder / "layerserve.toml").write_text(f"class_labels = {{ {setting} }}\n")
        if content is not None:
            (folder / at).write_bytes(content if isinstance(content, bytes) else content.encode())
        return folder

    return put_files


def labels_of(repository, version=None):
    with repository.leases.lease("double", version) as loaded:
        return dict(loaded.class_labels)


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        ("cat\ndog", [b"cat", b"dog"]),
        ("cat\r\ndog\r\n\r\n", [b"cat", b"dog"]),
        ("\ufeffcat: small\nÄffin", [b"cat: small", "Äffin".encode()]),
        ("\ndog", [b"", b"dog"]),
        ("cat\u2028s\x0bx\ndog", ["cat\u2028s\x0bx".encode(), b"dog"]),
    ],
)
def test_a_label_per_line(make, put_labels, content, labels):
    put_labels(content)
    assert labels_of(make()) == {"y": labels}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "class_labels.y: no file 'labels.txt' in the version's folder, nor in the model's"),
        ("cat\ndog\ncow", "'labels.txt' has 3 labels, expected 2, one for each element of a row"),
        ("cat", "'labels.txt' has 1 labels, expected 2"),
        ("", "'labels.txt' has 0 labels, expected 2"),
        (b"cat\nd\xf6g", "'labels.txt' line 2 isn't text in UTF-8"),
        (b"a" * (4 * 1024 * 1024 + 1), "'labels.txt' has more than 4194304 bytes"),
        ("cat\n" + "d" * (MAX_LABEL_BYTES + 1), f"'labels.txt' line 2 has {MAX_LABEL_BYTES + 1} bytes, expected up to"),
    ],
    ids=range(7),
)
def test_a_file_that_is_wrong_fails_the_version(make, put_labels, content, text):
    put_labels(content)
    repository = make()
    with pytest.raises(VersionFailedError) as caught:
        repository.leases.lease("double")
    assert text in str(caught.value)


def test_an_output_that_the_model_does_not_have(make, put_labels):
    put_labels("cat\ndog", setting='z = "labels.txt"')
    with pytest.raises(VersionFailedError, match=r"class_labels\.z: unknown tensor 'z'"):
        make().leases.lease("double")


def test_a_symbolic_link_and_a_pipe_are_no_files(make, put_labels, tmp_path):
    folder = put_labels(None)
    (tmp_path / "secret").write_text("cat\ndog")
    (folder / "1" / "labels.txt").symlink_to(tmp_path / "secret")
    os.mkfifo(folder / "labels.txt")
    with pytest.raises(VersionFailedError, match=r"no file 'labels\.txt'"):
        make().leases.lease("double")


@pytest.mark.parametrize(
    "file", ["../labels.txt", "a/labels.txt", ".labels.txt", "labels.csv", "classes.txt", "labels.txt\\n", ""]
)
def test_a_name_that_is_no_text_file_is_refused_in_the_settings(make, put_labels, file):
    put_labels("cat\ndog", setting=f'y = "{file}"')
    with pytest.raises(VersionFailedError, match=r"class_labels.y: got .*, expected"):
        make().leases.lease("double")


def test_the_file_of_a_version_replaces_that_of_the_model(make, put_labels, put):
    folder = put_labels("cat\ndog", at="labels.txt")
    put("double", 2)
    (folder / "2" / "labels.txt").write_text("cow\npig")
    repository = make()
    assert labels_of(repository, 1) == {"y": [b"cat", b"dog"]}
    assert labels_of(repository, 2) == {"y": [b"cow", b"pig"]}


@pytest.mark.parametrize("at", ["1/labels.txt", "labels.txt"])
def test_a_file_that_changes_is_read_again(make, put_labels, at):
    folder = put_labels("cat\ndog", at=at)
    repository = make()
    (folder / at).write_text("cow\npig")
    for _ in range(2):  # it has to be unchanged in between
        repository.scan()
    assert labels_of(repository) == {"y": [b"cow", b"pig"]}
    (folder / at).write_text("cow")
    for _ in range(2):
        repository.scan()
    assert labels_of(repository) == {"y": [b"cow", b"pig"]}
    (one,) = repository.catalogue.describe()
    assert (one.state, "has 1 labels, expected 2" in one.reason) == (State.READY, True)


def test_a_model_file_in_the_root_has_its_labels_beside_it(make, put_labels, tmp_path):
    folder = put_labels(None)
    (folder / "1" / "model.keras").rename(tmp_path / "models" / "double.keras")
    (folder / "1").rmdir()
    (tmp_path / "models" / "double.labels.txt").write_text("cat\ndog")
    repository = make()
    assert labels_of(repository) == {"y": [b"cat", b"dog"]}
    repository.publisher.writer.withdraw("double", 1, tmp_path / "models" / "double.keras")
    assert not (tmp_path / "models" / "double.labels.txt").exists()


def test_a_version_that_is_trained_from_another_has_its_labels(make, put_labels, tmp_path):
    folder = put_labels("cat\ndog")
    repository = make()
    (folder / "1" / "notes.txt").write_text("of this version alone")
    file = tmp_path / "trained.keras"
    file.write_text("{}")
    assert repository.publisher.publish("double", file, run="r1", base_version=1) == 2
    assert labels_of(repository, 2) == {"y": [b"cat", b"dog"]}
    assert sorted(path.name for path in (folder / "2").iterdir()) == ["labels.txt", "manifest.json", "model.keras"]
