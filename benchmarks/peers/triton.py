"""NVIDIA Triton's C++ server, with the small model in torch behind its Python backend and dynamic batching.

Takes `tritonserver` from the wheel of `nvidia-pytriton`, in an environment of its own that also has torch: the wheel
pins older releases of gRPC and protobuf than ours. The model's code runs inside of Triton's own stub process.
"""

import os
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytriton

CONFIG = """
name: "small"
backend: "python"
max_batch_size: 64
input [{ name: "x" data_type: TYPE_FP32 dims: [784] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [10] }]
instance_group [{ kind: KIND_CPU count: 1 }]
dynamic_batching { max_queue_delay_microseconds: 0 }
"""

MODEL = '''
import sys

sys.path[:0] = PATHS
import numpy as np
import torch
import triton_python_backend_utils as pb


class TritonPythonModel:
    def initialize(self, args):
        torch.set_num_threads(1)
        layers = [torch.nn.Linear(784, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64), torch.nn.ReLU()]
        self.network = torch.nn.Sequential(*layers, torch.nn.Linear(64, 10), torch.nn.Softmax(-1))

    def execute(self, requests):
        """One batch for all requests that Triton hands over together."""
        arrays = [pb.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        with torch.inference_mode():
            results = self.network(torch.from_numpy(np.concatenate(arrays))).numpy()
        parts = np.split(results, np.cumsum([len(array) for array in arrays])[:-1])
        return [pb.InferenceResponse([pb.Tensor("y", np.ascontiguousarray(part))]) for part in parts]
'''

home = Path(pytriton.__file__).parent / "tritonserver"
python = f"{sys.version_info.major}.{sys.version_info.minor}"
stub = home / "python_backend_stubs" / python / "triton_python_backend_stub"
models = Path(tempfile.mkdtemp())
(models / "small" / "1").mkdir(parents=True)
(models / "small" / "1" / "model.py").write_text(
    MODEL.replace("PATHS", repr([path for path in sys.path if "site-packages" in path]))
)
(models / "small" / "config.pbtxt").write_text(CONFIG)
# Triton looks for the stub beside the backend; the wheel keeps one for each Python elsewhere.
backend = Path(tempfile.mkdtemp()) / "python"
backend.mkdir()
for source in (*(home / "backends" / "python").iterdir(), stub):
    (backend / source.name).symlink_to(source)
port = int(sys.argv[1])
libraries = [str(home / "external_libs"), sysconfig.get_config_var("LIBDIR")]
os.environ["LD_LIBRARY_PATH"] = os.pathsep.join([*libraries, os.environ.get("LD_LIBRARY_PATH", "")])
os.environ["PYTHONHOME"] = sys.base_prefix
os.execv(
    home / "bin" / "tritonserver",
    [
        "tritonserver",
        *("--model-repository", str(models), "--backend-directory", str(backend.parent)),
        *("--grpc-port", str(port), "--allow-http", "false", "--allow-metrics", "false"),
    ],
)
