"""The commands for datasets."""

import json

import numpy as np
import pytest
from layerserve.calls import methods
from layerserve.v1.sweeps_pb2 import CreateSweepResponse
from PIL import Image

X = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.fixture
def id(cli, tmp_path):
    """The id of an uploaded dataset."""
    np.savez(tmp_path / "d.npz", x=X, y=X)
    status, out, _ = cli("dataset upload d.npz --title first --keep-days 2")
    assert status == 0
    return out.strip()


def test_a_dataset_is_uploaded_listed_shown_and_deleted(cli, server, id):
    assert server.calls[0][1].keep_seconds == 2 * 86400
    status, out, _ = cli("dataset list")
    assert status == 0
    assert all(text in out for text in (id[:12], "first", "npz", "x, y", "never"))
    status, out, _ = cli(f"dataset show {id[:8]}")
    assert (status, "float32" in out, "(4, 3)" in out) == (0, True, True)
    assert cli(f"dataset delete {id}") == (0, f"dataset {id} is deleted\n", "")
    assert cli("dataset list")[:2] == (0, "no datasets\n")
    assert cli(f"dataset show {id}")[::2] == (1, f"layerserve: no dataset '{id}'\n")


def test_datasets_are_json_for_programs(cli, id, tmp_path):
    np.save(tmp_path / "y.npy", X)
    uploaded = json.loads(cli("dataset upload --x x=d.npz:x --y y.npy --shared --json")[1])
    assert [array["name"] for array in uploaded["arrays"]] == ["x/x", "y"]
    assert uploaded["shared"] is True
    assert [one["id"] for one in json.loads(cli("dataset list --json")[1])["datasets"]] == [uploaded["id"], id]
    assert json.loads(cli(f"dataset show {id} --json")[1])["title"] == "first"
    assert json.loads(cli(f"dataset delete {id} --json")[1]) == {"deleted": id}


def test_runs_name_a_dataset(cli, server, id):
    status, out, _ = cli(
        f'train double --data dataset:{id[:10]} --split {{"use":"a","shares":{{"a":0.5}},"seed":3}} --detach'
    )
    assert status == 0
    spec = server.runs[out.strip()].spec
    assert {array.dataset for array in spec.data} == {id}
    assert (spec.view.splits, spec.view.split, spec.view.seed) == ('{"a": 0.5}', "a", 3)
    assert cli(f"evaluate double --data dataset:{id}")[0] == 0


def test_arrays_of_a_dataset_are_named_by_a_prefix(cli, server, id):
    status, out, _ = cli(f"train double --x dataset:{id[:10]}:x --y y=dataset:{id[:10]}:y,z --fill 0 --detach")
    assert status == 0
    data = server.runs[out.strip()].spec.data
    assert [(array.dataset, array.key, array.fill) for array in data] == [(id[:10], "x", "0"), (id[:10], "y,z", "0")]


def test_the_images_of_a_folder_are_a_dataset(cli, server, tmp_path):
    for name in ("cat", "dog", "dog/more"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (5, 6), (1, 2, 3)).save(tmp_path / "photos" / name / "a.png")
    size = "--image-size 3,4 --label-mode categorical"
    made = json.loads(cli(f"dataset upload {tmp_path / 'photos'} {size} --json")[1])
    assert [(one["name"], one["shape"]) for one in made["arrays"]] == [("x", [3, 3, 4, 3]), ("y", [3, 2])]


@pytest.mark.parametrize(
    ("line", "status", "text"),
    [
        ("dataset upload", 1, "got no data, expected a file or arrays"),
        ("dataset upload d.npz --x d.npz", 1, "got a FILE and arrays"),
        ("dataset upload d.npz --image-size 3,4", 1, "got --image-size or --label-mode, which are for a folder"),
        ("dataset upload . --image-size 3", 1, "--image-size: got 3, expected a height and a width such as 256,256"),
        ("dataset upload . --label-mode onehot", 1, "label_mode: got 'onehot', expected 'int', 'categorical' or"),
        ("dataset upload none.npz", 1, "none.npz: No such file or directory"),
        ("dataset upload d.txt", 1, "d.txt: got .txt, expected .npz"),
        ("train double --x d.npz", 2, "missing data: pass --x and --y, or --data"),
        ("train double --data dataset:ID --sample-weight d.npz:x", 1, "sample_weight: got it with a dataset as x"),
        ("train double --data dataset:ID --split {oops", 1, "--split: got '{oops', expected JSON"),
        ("train double --data dataset:0123456789", 1, "no dataset '0123456789'"),
    ],
)
def test_what_is_wrong_is_named(cli, id, line, status, text):
    got, _, err = cli(line.replace("ID", id))
    assert (got, text in " ".join(err.replace("│", " ").split())) == (status, True), err


def test_a_sweep_names_a_dataset(cli, server, id, answer):
    pytest.importorskip("layerserve.sweeps.api")
    asked = []
    answer(methods.METHODS["CreateSweep"], lambda request, _: asked.append(request.spec.train) or CreateSweepResponse())
    assert cli(f"sweep start double --data dataset:{id[:10]} --try seed=1,2 --detach")[0] == 0
    assert {array.dataset for array in asked[0].data} == {id}
