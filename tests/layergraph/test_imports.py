"""Which packages layergraph imports."""

import subprocess
import sys

import pytest

#: Packages that layergraph must not import: the protocol, the server, and anything that could run code from a model
#: file.
ELSEWHERE = ("grpc", "google.protobuf", "layerserve", "layerserve_server", "layerserve_zoo", "keras", "tensorflow")


@pytest.mark.parametrize("module", ["layergraph", "layergraph.models.loading", "layergraph.training.trainer"])
def test_the_engine_stands_alone(module: str) -> None:
    program = f"import sys, {module}; print(*[name for name in {ELSEWHERE} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
