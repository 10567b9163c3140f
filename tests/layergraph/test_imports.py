"""Which packages the engine pulls in."""

import subprocess
import sys

import pytest

#: What layergraph must do without: the wire, the server, and whatever could run code from a model file.
ELSEWHERE = ("grpc", "google.protobuf", "layerserve", "layerserve_server", "layerserve_zoo", "keras", "tensorflow")


@pytest.mark.parametrize("module", ["layergraph", "layergraph.models.loading", "layergraph.training.trainer"])
def test_the_engine_stands_alone(module: str) -> None:
    program = f"import sys, {module}; print(*[name for name in {ELSEWHERE} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
