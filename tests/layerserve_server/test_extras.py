"""Packages that settings need are named before anything is loaded."""

import re

import pytest
from layerserve_server import addresses, extras
from layerserve_server.extras import missing_extras
from layerserve_server.settings_reader import read_settings

SINKS = ["--run-sinks", "wandb:p,mlflow:http://m"]
CASES = [
    (["--http-port", "1"], ["uvicorn"], r"--http-port \(.*\): requires uvicorn: pip install uvicorn"),
    (
        ["--transport", "native"],
        ["pygrpc_native"],
        r"--transport \(.*\): requires pygrpc-native: pip install 'pygrpc-native>=0\.5,<0\.6'",
    ),
    (["--engine", "onnxruntime"], ["onnx"], r"--engine \(.*\): requires onnx: pip install onnx"),
    (["--engine", "openvino"], ["openvino"], r"--engine \(.*\): requires openvino: pip install openvino"),
    (
        ["--training-backend", "kubernetes", "--training-job", "job.yaml"],
        ["lightkube"],
        r"--training-backend \(.*\): requires lightkube: pip install lightkube",
    ),
    (SINKS, ["mlflow"], r"--run-sinks \(.*\): requires mlflow-skinny: pip install mlflow-skinny"),
    (SINKS, ["wandb"], r"--run-sinks \(.*\): requires wandb: pip install wandb"),
]


def lack(monkeypatch, *missing):
    for module in (extras, addresses):
        monkeypatch.setattr(module, "find_spec", lambda name: None if name in missing else name)


@pytest.mark.parametrize(("flags", "missing", "line"), CASES)
def test_a_setting_names_the_packages_that_it_needs(monkeypatch, flags, missing, line):
    lack(monkeypatch)
    settings = read_settings(flags)
    assert missing_extras(settings) == []
    lack(monkeypatch, *missing)
    (found,) = missing_extras(settings)
    assert re.fullmatch(line, found)
    assert missing_extras(read_settings([])) == []
