"""Quantized graphs in the state folder, found again by the digest of model, calibration and packages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from layerserve_server.artifacts.artifacts import Artifacts
from layerserve_server.artifacts.keys import digest_of, installed, machine, model_digest
from layerserve_server.engines.quantizer import quantize
from layerserve_server.jobs.jobs import Jobs

if TYPE_CHECKING:
    from layergraph import Model

#: Maximum size of all graphs that are kept, in bytes.
MAX_BYTES: Final = 4 << 30
#: Packages that make the graphs, or whose versions affect the speed of engines.
_PACKAGES: Final = ("torch", "onnx", "onnxruntime", "openvino", "layerserve")
#: Files that are kept.
_GRAPHS: Final = ("float32.onnx", "static.onnx", "dynamic.onnx")


class QuantizedGraphs:
    """The folder of quantized graphs. Processes may share it. Thread-safe."""

    def __init__(self, folder: Path, jobs: Jobs) -> None:
        self._folders = Artifacts(folder, _GRAPHS, max_bytes=MAX_BYTES)
        self._jobs = jobs

    def of(self, model: Model, threads: int) -> ModelGraphs:
        """Where a model's graphs are made, for engines with this number of threads."""
        return ModelGraphs(self._folders, self._jobs, model, threads)


class ModelGraphs:
    """Where the graphs of one model are made and kept (see `layergraph.execution.tuning.precision.Workshop`)."""

    def __init__(self, folders: Artifacts, jobs: Jobs, model: Model, threads: int) -> None:
        self._folders = folders
        self._jobs = jobs
        self._model = model
        self._threads = threads

    @contextmanager
    def graphs(self, calibration: Sequence[Any], write: Callable[[Path], None]) -> Iterator[Path]:
        """Gives the folder of graphs that are calibrated with these arrays. Makes them if they aren't kept.

        `write` writes what is quantized. Raises QuantizationError, and as `write` does.
        """

        def make(folder: Path) -> None:
            write(folder)
            quantize(self._jobs, folder)

        arrays = [(array.dtype.str, array.shape, sha256(array.tobytes()).digest()) for array in calibration]
        key = digest_of(model_digest(self._model), arrays, installed(_PACKAGES), machine(), self._threads)
        with self._folders.made(key, make) as folder:
            yield folder
