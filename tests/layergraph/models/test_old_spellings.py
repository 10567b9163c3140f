"""What files of Keras 2 spell differently without another meaning: they give the numbers of tf.keras 2.15."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import layergraph
import numpy as np
import pytest
from layergraph.errors import ConfigError, UnsupportedModelError
from model_files import FIXTURES, check_fixture

Edit = Callable[[dict[str, Any]], None]


def edited(name: str, folder: Path, edit: Edit) -> Path:
    """A copy of an `.h5` fixture in which `edit` has changed the config of each layer."""
    path = folder / name
    for suffix in (".h5", ".npz"):
        shutil.copy((FIXTURES / name).with_suffix(suffix), path.with_suffix(suffix))
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        waiting = [config]
        while waiting:
            item = waiting.pop()
            waiting += [value for value in (item.values() if isinstance(item, dict) else item) if _is_nest(value)]
            if isinstance(item, dict) and "trainable" in item:
                edit(item)
        file.attrs["model_config"] = json.dumps(config)
    return path


def _is_nest(value: Any) -> bool:
    return isinstance(value, (dict, list))


def each_initializer(**changes: Any) -> Edit:
    def edit(config: dict[str, Any]) -> None:
        for key in [key for key in config if key.endswith("_initializer") and isinstance(config[key], dict)]:
            config[key] = {**config[key], **changes, "config": {**config[key]["config"], **changes.get("config", {})}}

    return edit


INITIALIZERS: dict[str, Edit] = {
    "a dtype, as TensorFlow 1 writes": each_initializer(config={"dtype": "float32"}),
    "an unknown option": each_initializer(config={"partition_info": 3}),
    "an option out of range": each_initializer(config={"seed": "many"}),
    "a custom class": each_initializer(class_name="MyInitializer", module="mine", registered_name="mine>My"),
    "a custom function": each_initializer(class_name="function", module="__main__", config="my_values"),
    "a lambda": each_initializer(class_name="__lambda__", config={"value": {"code": "x"}}),
}


@pytest.mark.parametrize("edit", INITIALIZERS.values(), ids=INITIALIZERS)
def test_first_values_of_weights_that_a_file_holds_never_matter(edit: Edit, tmp_path: Path) -> None:
    if edit is INITIALIZERS["a custom function"]:
        edit = lambda config: config.update(  # noqa: E731
            {k: {"class_name": "function", "module": "__main__", "config": "f"} for k in config if "_initializer" in k}
        )
    for name in ("recurrent.h5", "normalization.h5"):
        check_fixture(edited(name, tmp_path, edit))


def test_a_null_option_has_no_effect(tmp_path: Path) -> None:
    check_fixture(edited("dense.h5", tmp_path, lambda config: config.update(brand_new=None)))
    path = edited("dense.h5", tmp_path, lambda config: config.update(brand_new=2))
    with pytest.raises(UnsupportedModelError, match="option 'brand_new' = 2 is not supported"):
        layergraph.load_model(path)


CUSTOM = {"class_name": "Mine", "module": "mine", "config": {"strength": 3}, "registered_name": "mine>Mine"}


@pytest.mark.parametrize("option", ["kernel_regularizer", "kernel_constraint"])
@pytest.mark.parametrize(
    "custom", [CUSTOM, {"class_name": "__lambda__", "config": {}}, "mine", {"class_name": "function", "config": "mine"}]
)
def test_custom_penalties_and_projections_are_served_but_not_trained(option: str, custom: Any, tmp_path: Path) -> None:
    path = edited("dense.h5", tmp_path, lambda config: config.update({option: custom}) if "units" in config else None)
    model = check_fixture(path)
    shape = (4, *model.inputs[0].shape[1:])
    model.compile("sgd", "mse")
    with pytest.raises(ConfigError, match=r"(regularizer|constraint) .* is not supported: .* served, but not trained"):
        model.fit(np.zeros(shape, "float32"), np.zeros((4, *model.outputs[0].shape[1:]), "float32"), verbose=0)
    # It is written again as it was.
    model.save(tmp_path / "again.h5")
    with h5py.File(tmp_path / "again.h5") as file:
        assert json.dumps(custom) in json.dumps(json.loads(file.attrs["model_config"]))
    model.save(tmp_path / "again.keras")
    layergraph.load_model(tmp_path / "again.keras")


@pytest.mark.parametrize("kind", ["ndarray", "int64"])
def test_numbers_of_numpy(kind: str, tmp_path: Path) -> None:
    def edit(config: dict[str, Any]) -> None:
        for key, value in config.items():
            if type(value) in (int, float) and key != "seed":
                config[key] = {"type": kind, "value": value}

    for name in ("activations.h5", "normalization.h5", "conv2d.h5"):
        check_fixture(edited(name, tmp_path, edit))


@pytest.mark.parametrize("name", ["recurrent", "model_as_layer"])
def test_weights_written_on_windows(name: str, tmp_path: Path) -> None:
    source, path = FIXTURES / f"{name}.keras", tmp_path / f"{name}.keras"
    shutil.copy(source.with_suffix(".npz"), path.with_suffix(".npz"))
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for member in old.namelist():
            content = old.read(member)
            new.writestr(member, with_backslashes(content) if member.endswith(".h5") else content)
    check_fixture(path)


def with_backslashes(content: bytes) -> bytes:
    """Weights as tf.keras 2.13 to 2.15 wrote them on Windows: a group with the whole path of a layer, in it `vars`."""
    result = io.BytesIO()
    with h5py.File(io.BytesIO(content)) as old, h5py.File(result, "w") as new:

        def copy(path: str, item: Any) -> None:
            if isinstance(item, h5py.Group) and path.endswith("/vars"):
                place = path.rpartition("/")[0].replace("/", "\\")
                old.copy(item, new.require_group(place), "vars")

        old.visititems(copy)
    assert b"\\" in result.getvalue()
    return result.getvalue()


def test_the_content_of_a_file_counts_not_its_suffix(tmp_path: Path) -> None:
    for suffix, other in ((".h5", ".keras"), (".keras", ".h5"), (".h5", ".hdf5"), (".keras", ".model")):
        path = tmp_path / f"{suffix[1:]}{other}"
        shutil.copy(FIXTURES / f"dense{suffix}", path)
        shutil.copy(FIXTURES / "dense.npz", path.with_suffix(".npz"))
        check_fixture(path)
