"""NVIDIA Triton's C++ server, with a model behind its Python backend and dynamic batching.

    python triton.py PORT MODEL [ENGINE FILE]

The model is in torch, or an ONNX file in an engine of `onnx_models.ENGINES`.

Takes `tritonserver` from the wheel of `nvidia-pytriton`, in an environment of its own that also has the engine: the
wheel pins an older release of NumPy than ours. The model's code runs inside of Triton's own stub process.
"""

import os
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytriton
from model import Tensor
from named_model import named_model

CONFIG = """
name: "{model}"
backend: "python"
max_batch_size: 64
input [{inputs}]
output [{outputs}]
instance_group [{{ kind: KIND_CPU count: 1 }}]
dynamic_batching {{ max_queue_delay_microseconds: 0 }}
"""

MODEL = '''
import sys

sys.path[:0] = PATHS
import numpy as np
import triton_python_backend_utils as pb
from named_model import named_model


class TritonPythonModel:
    def initialize(self, args):
        self.model = named_model(*NAMED)

    def execute(self, requests):
        """One batch for all requests that Triton hands over together."""
        arrays = {
            tensor.name: [pb.get_input_tensor_by_name(request, tensor.name).as_numpy() for request in requests]
            for tensor in self.model.inputs
        }
        results = self.model.run({name: np.concatenate(parts) for name, parts in arrays.items()})
        ends = np.cumsum([len(array) for array in arrays[self.model.inputs[0].name]])[:-1]
        parts = {name: np.split(array, ends) for name, array in results.items()}
        return [
            pb.InferenceResponse([pb.Tensor(name, np.ascontiguousarray(parts[name][i])) for name in parts])
            for i in range(len(requests))
        ]
'''


def described(tensors: tuple[Tensor, ...]) -> str:
    """Tensors in Triton's description of a model."""
    types = {"float32": "TYPE_FP32", "int32": "TYPE_INT32"}
    return ", ".join(
        f'{{ name: "{tensor.name}" data_type: {types[tensor.dtype]} dims: {list(tensor.shape)} }}' for tensor in tensors
    )


home = Path(pytriton.__file__).parent / "tritonserver"
python = f"{sys.version_info.major}.{sys.version_info.minor}"
stub = home / "python_backend_stubs" / python / "triton_python_backend_stub"
models = Path(tempfile.mkdtemp())
name = sys.argv[2]
model = named_model(*sys.argv[2:])
(models / name / "1").mkdir(parents=True)
paths = [path for path in sys.path if "site-packages" in path] + [str(Path(__file__).parent)]
(models / name / "1" / "model.py").write_text(MODEL.replace("PATHS", repr(paths)).replace("NAMED", repr(sys.argv[2:])))
(models / name / "config.pbtxt").write_text(
    CONFIG.format(model=name, inputs=described(model.inputs), outputs=described(model.outputs))
)
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
        *("--grpc-port", str(port), "--http-port", str(port + 1), "--allow-metrics", "false"),
    ],
)
