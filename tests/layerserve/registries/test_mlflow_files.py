"""Which files of an MLflow model are the Keras model."""

from __future__ import annotations

import json

import pytest
from layerserve.registries.mlflow_files import FlavorError, data_folder, served_name, version_files

pytest.importorskip("yaml")

SAVED_MODEL = ["saved_model.pb", "keras_metadata.pb", "variables/variables.index"]
OF_KERAS_2 = {"data": "data", "model_type": "keras", "keras_version": "2.15.0"}


def mlmodel(**flavors):
    return json.dumps({"flavors": {"python_function": {"loader_module": "evil"}, **flavors}, "run_id": "1"})


@pytest.mark.parametrize(
    ("flavors", "paths", "expected"),
    [
        ({"keras": {"data": "data"}}, ["data/model.keras"], {"model.keras": "data/model.keras"}),
        # TensorFlow 2.16 and later.
        ({"tensorflow": OF_KERAS_2}, ["data/model.keras"], {"model.keras": "data/model.keras"}),
        ({"tensorflow": OF_KERAS_2}, ["data/model.h5", "data/code.py"], {"model.h5": "data/model.h5"}),
        (
            {"tensorflow": {**OF_KERAS_2, "data": "a/b"}},
            [f"a/b/model/{path}" for path in SAVED_MODEL],
            {path: f"a/b/model/{path}" for path in SAVED_MODEL},
        ),
        # MLflow 1.
        ({"keras": {"keras_module": "keras"}}, ["data/model.h5"], {"model.h5": "data/model.h5"}),
        ({"keras": {"data": "model.h5"}}, ["model.h5"], {"model.h5": "model.h5"}),
        ({"keras": {}}, ["golden.npz", "data/model.h5"], {"model.h5": "data/model.h5", "golden.npz": "golden.npz"}),
    ],
)
def test_the_files_of_a_version(flavors, paths, expected):
    paths = ["MLmodel", "requirements.txt", "data/custom_objects.cloudpickle", *paths]
    assert version_files(data_folder(mlmodel(**flavors)), paths) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (mlmodel(sklearn={}), "flavors: got python_function, sklearn, expected keras or tensorflow"),
        (mlmodel(tensorflow={"model_type": "tf2-module"}), "got 'tf2-module', which is a graph without layers"),
        (mlmodel(tensorflow={"saved_model_dir": "tfmodel"}), "got 'tf1-estimator', which is a graph"),
        (mlmodel(keras={"save_exported_model": True}), "got an exported graph"),
        (mlmodel(keras={"data": "../data"}), "data: got '../data', expected a folder in the model"),
        (mlmodel(keras={"data": "/etc"}), "data: got '/etc'"),
        (mlmodel(keras={"data": 3}), "data: got 3"),
        ("flavors: []", "MLmodel: got no flavors"),
        ("- 1", "MLmodel: got no flavors"),
        ("a: [", "MLmodel: isn't YAML"),
        ("flavors: !!python/object/apply:os.system ['true']", "MLmodel: isn't YAML"),
        ("[" * 100_000, "MLmodel: isn't YAML"),
    ],
)
def test_other_models_are_refused(text, problem):
    with pytest.raises(FlavorError, match=problem.replace("(", r"\(")):
        data_folder(text)


def test_a_model_that_is_half_there_is_refused():
    with pytest.raises(FlavorError, match=r"got MLmodel, expected one of data/model.keras, data/model.h5"):
        version_files("data", ["MLmodel"])


def test_names_on_a_server():
    assert served_name("my model (v2)") == "my_model__v2_"
    assert served_name("_iris.v1-a") == "iris.v1-a"
    assert served_name("../x") == "x"
    assert served_name("Ü") == ""
