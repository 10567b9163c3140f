"""Extras that settings need are named before anything is loaded."""

import re

import pytest
from layerserve_server import addresses, extras
from layerserve_server.extras import missing_extras
from layerserve_server.settings_reader import read_settings

SINKS = ["--run-sinks", "wandb:p,mlflow:http://m"]
CASES = [
    (["--http-port", "1"], ["uvicorn"], r"--http-port \(.*\): needs the package uvicorn: pip install '.*\[http\]'"),
    (["--http-port", "1", "--ui"], ["jinja2", "PIL"], r"--ui \(.*\): needs the packages Jinja2, Pillow: .*\[ui\]'"),
    (["--transport", "native"], ["pygrpc_native"], r"--transport \(.*\): needs the package pygrpc-native: .*\[fast\]'"),
    (["--engine", "onnxruntime"], ["onnx"], r"--engine \(.*\): needs the package onnx: .*\[fast\]'"),
    (["--engine", "openvino"], ["openvino"], r"--engine \(.*\): needs the package openvino: .*\[openvino\]'"),
    (
        ["--training-backend", "kubernetes", "--training-job", "job.yaml"],
        ["lightkube"],
        r"--training-backend \(.*\): needs the package lightkube: .*\[kubernetes\]'",
    ),
    (SINKS, ["mlflow"], r"--run-sinks \(.*\): needs the package mlflow-skinny: .*\[mlflow\]'"),
    (SINKS, ["wandb"], r"--run-sinks \(.*\): needs the package wandb: .*\[wandb\]'"),
]


def lack(monkeypatch, *missing):
    for module in (extras, addresses):
        monkeypatch.setattr(module, "find_spec", lambda name: None if name in missing else name)


@pytest.mark.parametrize(("flags", "missing", "line"), CASES)
def test_a_setting_names_the_extra_that_it_needs(monkeypatch, flags, missing, line):
    lack(monkeypatch)
    settings = read_settings(flags)
    assert missing_extras(settings) == []
    lack(monkeypatch, *missing)
    (found,) = missing_extras(settings)
    assert re.fullmatch(line, found)
    assert missing_extras(read_settings([])) == []
