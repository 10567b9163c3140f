"""Packages that settings need are named before anything is loaded."""

import pytest
from missing_packages import check_named

CASES = [
    (["--http-port", "1"], ["httptools"], r"--http-port \(.*\): requires httptools: pip install httptools"),
    (
        ["--transport", "native"],
        ["pygrpc_native"],
        r"--transport \(.*\): requires pygrpc-native: pip install 'pygrpc-native>=0\.5,<0\.6'",
    ),
    (["--engine", "onnxruntime"], ["onnx"], r"--engine \(.*\): requires onnx: pip install onnx"),
    (["--engine", "openvino"], ["openvino"], r"--engine \(.*\): requires openvino: pip install openvino"),
]


@pytest.mark.parametrize(("flags", "missing", "line"), CASES)
def test_a_setting_names_the_packages_that_it_needs(monkeypatch, flags, missing, line):
    check_named(monkeypatch, flags, missing, line)
