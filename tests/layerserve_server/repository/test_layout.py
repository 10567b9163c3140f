"""Layout: which files in a repository are versions, and which are named with what is wrong."""

import os
import socket

import pytest
from layerserve_server.repository import layout
from layerserve_server.repository.layout import find_file, find_in_folder


def found(root):
    return {(one.name, one.version): one for one in find_in_folder(root).versions}


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("model")
    return path


def test_versions_are_folders_with_a_number_and_a_model_file(tmp_path):
    touch(tmp_path / "a" / "1" / "model.keras")
    touch(tmp_path / "a" / "20" / "model.h5")
    touch(tmp_path / "b" / "3" / "any name.hdf5")
    touch(tmp_path / "flat.keras")
    assert set(found(tmp_path)) == {("a", 1), ("a", 20), ("b", 3), ("flat", 1)}
    assert not any(one.problem for one in found(tmp_path).values())


def test_a_folder_comes_before_a_flat_file_of_the_same_name(tmp_path):
    touch(tmp_path / "a.keras")
    inside = touch(tmp_path / "a" / "1" / "model.keras")
    assert found(tmp_path)["a", 1].path == inside


@pytest.mark.parametrize(
    ("path", "reported", "expected"),
    [
        ("a/model.h5", "a/model.h5", "expected a/VERSION/model.h5, such as a/1/model.h5"),
        ("a/net.keras", "a/net.keras", "such as a/1/net.keras"),
        ("a/saved_model.pb", "a/saved_model.pb", "such as a/1/saved_model.pb"),
        ("a/v1/model.h5", "a/v1", "a folder named by a number alone, such as a/1"),
        ("a/v2/net.h5", "a/v2", "a folder named by a number alone, such as a/2"),
        ("a/0012/saved_model.pb", "a/0012", "a folder named by a number alone, such as a/12"),
        ("a/00/model.h5", "a/00", "such as a/1"),
        ("a/latest/model.h5", "a/latest", "a folder named by a number, such as a/1"),
        ("1/saved_model.pb", "1/saved_model.pb", "if this is the folder of one model, serve the one above"),
        ("a b/1/model.keras", "a b", "expected a model name of letters"),
        ("a b/model.keras", "a b", "expected a model name of letters"),
        ("net (2).keras", "net (2).keras", "expected a model name of letters"),
        ("saved_model.pb", "saved_model.pb", "expected NAME/VERSION/saved_model.pb"),
    ],
)
def test_a_misplaced_model_is_named_with_what_is_expected(tmp_path, path, reported, expected):
    touch(tmp_path / path)
    contents = find_in_folder(tmp_path)
    assert contents.versions == []
    assert list(contents.misplaced) == [reported]
    assert expected in contents.misplaced[reported]


def test_a_link_to_the_folder_of_a_model_is_misplaced(tmp_path):
    touch(tmp_path / "elsewhere" / "1" / "model.keras")
    root = tmp_path / "root"
    root.mkdir()
    (root / "a").symlink_to(tmp_path / "elsewhere")
    assert find_in_folder(root) == ([], {"a": "it is a symbolic link, expected a folder"}, {})


def test_a_link_to_the_folder_of_a_version_is_misplaced(tmp_path):
    touch(tmp_path / "elsewhere" / "net.keras")
    folder = tmp_path / "root" / "a"
    folder.mkdir(parents=True)
    (folder / "1").symlink_to(tmp_path / "elsewhere")
    assert find_in_folder(tmp_path / "root") == ([], {"a/1": "it is a symbolic link, expected a folder"}, {})


@pytest.mark.parametrize("name", ["v2", "V2", "002"])
def test_a_folder_meant_as_a_version_is_misplaced_beside_others(tmp_path, name):
    # Nothing else says why the model that was added isn't served.
    touch(tmp_path / "a" / "1" / "model.keras")
    touch(tmp_path / "a" / name / "model.keras")
    assert list(found(tmp_path)) == [("a", 1)]
    assert list(find_in_folder(tmp_path).misplaced) == [f"a/{name}"]


@pytest.mark.parametrize(
    "path", ["a/1/model.keras", "a.keras", ".cache/model.h5", ".a.keras", "notes b/x.txt", "a/b/x"]
)
def test_what_is_served_or_is_no_model_is_not_misplaced(tmp_path, path):
    touch(tmp_path / path)
    assert find_in_folder(tmp_path).misplaced == {}


def test_a_file_beside_the_versions_of_a_model_is_not_misplaced(tmp_path):
    touch(tmp_path / "a" / "1" / "model.keras")
    touch(tmp_path / "a" / "backup.keras")
    assert find_in_folder(tmp_path).misplaced == {}


@pytest.mark.parametrize("name", ["0", "01", "-1", "1e3", "99999999999999999999", "v1", "1 ", "\u0661"])
def test_what_is_no_version_number_is_no_version(tmp_path, name):
    touch(tmp_path / "a" / name / "model.keras")
    assert found(tmp_path) == {}


@pytest.mark.parametrize("name", [".hidden", "-a", "a b", "a\nb", "ä", "x" * 129])
def test_what_is_no_model_name_is_no_model(tmp_path, name):
    touch(tmp_path / name / "1" / "model.keras")
    assert found(tmp_path) == {}


def test_model_keras_comes_before_other_files(tmp_path):
    touch(tmp_path / "a" / "1" / "other.h5")
    touch(tmp_path / "a" / "1" / "model.keras")
    assert found(tmp_path)["a", 1].path.name == "model.keras"


def link_outside(path):
    path.symlink_to("/etc/hostname")


def link_loop(path):
    path.symlink_to(path)


def named_socket(path):
    here = os.getcwd()
    os.chdir(path.parent)  # socket names are short
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(here)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (os.mkfifo, "a named pipe"),
        (os.mkdir, "a folder"),
        (link_outside, "a symbolic link"),
        (link_loop, "a symbolic link"),
        (named_socket, "a socket"),
    ],
)
def test_what_is_no_regular_file_is_told_and_not_opened(tmp_path, make, kind):
    folder = tmp_path / "a" / "1"
    folder.mkdir(parents=True)
    make(folder / "model.keras")
    assert found(tmp_path)["a", 1].problem == f"model.keras is {kind}, expected a regular file"


def test_a_version_folder_that_is_a_link_is_not_followed(tmp_path):
    outside = tmp_path / "outside"
    touch(outside / "1" / "model.keras")
    (tmp_path / "root" / "a").mkdir(parents=True)
    (tmp_path / "root" / "a" / "1").symlink_to(outside / "1")
    (tmp_path / "root" / "b").symlink_to(outside)
    assert found(tmp_path / "root") == {}


def test_several_or_no_model_files_are_told(tmp_path):
    touch(tmp_path / "a" / "1" / "x.h5")
    touch(tmp_path / "a" / "1" / "y.keras")
    (tmp_path / "a" / "2").mkdir()
    versions = found(tmp_path)
    assert "2 model files, expected one or a model.keras: x.h5, y.keras" in versions["a", 1].problem
    assert "folder is empty, expected a model file" in versions["a", 2].problem


def test_another_content_has_another_fingerprint_even_with_the_same_size_and_mtime(tmp_path):
    path = touch(tmp_path / "m.keras")
    before = find_file("m", 1, path)
    state = path.stat()
    path.write_text("MODEL")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    after = find_file("m", 1, path)
    assert (before.size, before.modified) == (after.size, after.modified)
    assert before.fingerprint != after.fingerprint


@pytest.mark.parametrize(
    ("held", "changed"),
    [
        (("model.keras", "golden.npz"), "golden.npz"),
        (("model.keras", "calibration.npz"), "calibration.npz"),
        (("model.json", "group1-shard1of1.bin"), "group1-shard1of1.bin"),
        (("model.json", "weights.h5"), "model.json"),
        (("model.json", "weights.h5"), "weights.h5"),
        (("model.json", "model.weights.json", "model_00000.weights.h5"), "model_00000.weights.h5"),
        (("saved_model.pb", "variables/variables.index"), "variables/variables.index"),
        (("saved_model.pb", "variables/variables.data-00000-of-00001"), "variables/variables.data-00000-of-00001"),
        (("saved_model.pb", "keras_metadata.pb"), "keras_metadata.pb"),
        (("saved_model.pb", "assets/terms.txt"), "assets/terms.txt"),
        (("model.tflite",), "model.tflite"),
        (("config.json", "model.weights.h5", "task.json", "task.weights.h5"), "task.weights.h5"),
        (("config.json", "model.weights.json", "model_00000.weights.h5", "model_00001.weights.h5"), "config.json"),
    ],
)
def test_a_file_that_belongs_to_the_model_is_part_of_its_fingerprint(tmp_path, held, changed):
    for name in held:
        touch(tmp_path / "m" / "1" / name)
    first = found(tmp_path)["m", 1]
    assert found(tmp_path)["m", 1] == first
    (tmp_path / "m" / "1" / changed).write_text("another")
    os.utime(tmp_path / "m" / "1" / changed, (4e9, 4e9))
    second = found(tmp_path)["m", 1]
    assert second.fingerprint != first.fingerprint
    assert second.modified == 4e9, "the version is not settled before the last of its files is"


def test_a_saved_model_folder_is_a_version_with_all_its_files(tmp_path):
    folder = tmp_path / "m" / "1"
    for name in ("saved_model.pb", "keras_metadata.pb", "variables/variables.index", "variables/other", "notes.json"):
        touch(folder / name)
    (folder / "variables" / "variables.link").symlink_to("/etc/hostname")
    one = found(tmp_path)["m", 1]
    assert (one.path, one.problem) == (folder / "saved_model.pb", "")
    assert one.parts == ("keras_metadata.pb", "variables/variables.index")
    assert one.size == 3 * len("model")
    touch(folder / "model.keras")
    assert found(tmp_path)["m", 1].path == folder / "model.keras"


def test_a_folder_of_something_else_is_left_to_the_loader_to_name(tmp_path):
    touch(tmp_path / "m" / "1" / "model.tflite")
    one = found(tmp_path)["m", 1]
    assert (one.path, one.problem) == (tmp_path / "m" / "1", "")


def test_the_files_of_a_preset_are_all_that_may_belong_to_it(tmp_path):
    for name in ("config.json", "model.weights.h5", "task.json", "task.weights.h5", "manifest.json"):
        touch(tmp_path / "m" / "1" / name)
    (tmp_path / "m" / "1" / "assets").mkdir()
    (tmp_path / "m" / "1" / "link.h5").symlink_to(tmp_path / "m" / "1" / "task.weights.h5")
    one = found(tmp_path)["m", 1]
    assert (one.path.name, one.parts) == ("config.json", ("model.weights.h5", "task.json", "task.weights.h5"))


def test_other_files_beside_a_model_file_are_no_part_of_it(tmp_path):
    touch(tmp_path / "m" / "1" / "model.keras")
    first = found(tmp_path)["m", 1]
    touch(tmp_path / "m" / "1" / "notes.txt")
    assert found(tmp_path)["m", 1] == first


def test_the_proof_of_a_file_without_a_folder_belongs_to_it(tmp_path):
    touch(tmp_path / "m.keras")
    first = found(tmp_path)["m", 1]
    touch(tmp_path / "m.golden.npz")
    assert found(tmp_path)["m", 1].fingerprint != first.fingerprint
    (tmp_path / "m.golden.npz").unlink()
    assert found(tmp_path)["m", 1] == first


def test_what_goes_away_or_can_not_be_read_meanwhile_is_told(tmp_path, monkeypatch):
    """A folder of versions that is gone has none; a version's folder, or file, has its reason."""
    path = touch(tmp_path / "a" / "1" / "model.keras")
    gone = find_file("a", 1, tmp_path / "a" / "1" / "other.keras")
    assert (gone.problem, gone.fingerprint) == ("other.keras: No such file or directory", layout.NOTHING)

    def refused(where):
        listing = {"scandir": os.scandir, "listdir": os.listdir}[where]

        def list_folder(folder):
            if os.fspath(folder) == str(path.parent if where == "listdir" else path.parents[1]):
                raise PermissionError(13, "Permission denied")
            return listing(folder)

        with monkeypatch.context() as patch:
            patch.setattr(os, where, list_folder)
            return found(tmp_path)

    assert refused("scandir") == {}
    (one,) = refused("listdir").values()
    assert (one.name, one.version, one.fingerprint) == ("a", 1, layout.NOTHING)
    assert one.problem == "the version's folder can't be read: Permission denied"
    assert found(tmp_path)["a", 1].problem == ""
