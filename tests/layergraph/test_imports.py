"""Which packages layergraph imports."""

import subprocess
import sys

#: Packages that layergraph must not import: the protocol, the server, and anything that could run code from a model
#: file.
ELSEWHERE = ("grpc", "google.protobuf", "layerserve", "layerserve_server", "layerserve_zoo", "keras", "tensorflow")


def test_the_engine_stands_alone() -> None:
    program = f"import sys, layergraph; print(*[name for name in {ELSEWHERE} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
