"""Quantized graphs in the state folder, found again by the digest of model, calibration and packages.

```
locks/NN       held while a graph is quantized or loaded; other processes of the server wait, and load what it has made
KEY/           a model's graphs, the engines that were chosen for them, and digests of the graphs' files
```
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from layerserve_server.disk import locked, sha256
from layerserve_server.quantization.program import WALL_SECONDS
from layerserve_server.quantization.quantizer import Quantizer

if TYPE_CHECKING:
    from layergraph import Model

logger = logging.getLogger(__name__)

#: Maximum size of all graphs that are kept, in bytes, and the time after which one that isn't used is removed, in
#: seconds.
MAX_BYTES: Final = 4 << 30
UNUSED_SECONDS: Final = 30 * 86400.0
#: Packages that make the graphs, or whose versions affect the speed of engines.
_PACKAGES: Final = ("torch", "onnx", "onnxruntime", "openvino", "layerserve")
#: Files that are kept; the name of the last one, which holds their digests.
_GRAPHS: Final = ("static.onnx", "dynamic.onnx")
_DIGESTS: Final = "digests.json"


class KeptGraphs:
    """The folder of quantized graphs. Processes may share it. Thread-safe."""

    def __init__(self, folder: Path, quantizer: Quantizer) -> None:
        self._folder = folder
        self._quantizer = quantizer

    def of(self, model: Model, threads: int) -> ModelGraphs:
        """Where a model's graphs are made, for engines with this number of threads."""
        return ModelGraphs(self._folder, self._quantizer, model, threads)


class ModelGraphs:
    """Where the graphs of one model are made and kept (see `layergraph.execution.tuning.precision.Workshop`)."""

    def __init__(self, folder: Path, quantizer: Quantizer, model: Model, threads: int) -> None:
        self._folder = folder
        self._quantizer = quantizer
        self._model = model
        self._threads = threads

    @contextmanager
    def graphs(self, calibration: Sequence[Any], write: Callable[[Path], None]) -> Iterator[Path]:
        """Gives the folder of graphs that are calibrated with these arrays. Makes them if they aren't kept.

        `write` writes what is quantized. Raises QuantizationError, and as `write` does.
        """
        key = _key(self._model, calibration, self._threads)
        with ExitStack() as held:
            try:
                (self._folder / "locks").mkdir(parents=True, exist_ok=True)
                held.enter_context(locked(self._lock(key)))
            except OSError as error:
                logger.warning("can't keep quantized graphs in %s: %s", self._folder, error.strerror)
                folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="layerserve-int8-")))
                self._make(folder, write)
            else:
                folder = self._folder / key
                if not _is_whole(folder):
                    self._keep(key, write)
                    self._remove_unused()
                os.utime(folder)
            yield folder

    def _make(self, folder: Path, write: Callable[[Path], None]) -> None:
        write(folder)
        self._quantizer.quantize(folder)

    def _keep(self, key: str, write: Callable[[Path], None]) -> None:
        unfinished = Path(tempfile.mkdtemp(prefix=".", dir=self._folder))
        try:
            self._make(unfinished, write)
            digests = {}
            for file in unfinished.iterdir():
                if file.name in _GRAPHS and file.is_file() and not file.is_symlink():
                    digests[file.name] = sha256(file)
                else:
                    shutil.rmtree(file) if file.is_dir() and not file.is_symlink() else file.unlink()
            (unfinished / _DIGESTS).write_text(json.dumps(digests))
            shutil.rmtree(self._folder / key, ignore_errors=True)
            unfinished.rename(self._folder / key)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    def _lock(self, key: str) -> Path:
        # Few files: one for each graph would stay for ever.
        return self._folder / "locks" / key[:2]

    def _remove_unused(self) -> None:
        """Removes graphs that weren't used for long, and the oldest if all are too large. The newest stays."""
        now, left = time.time(), MAX_BYTES
        entries = []
        for entry in self._folder.iterdir():
            with suppress(OSError):
                if entry.name != "locks":
                    size = sum(file.stat().st_size for file in entry.iterdir())
                    entries.append((now - entry.stat().st_mtime, size, entry))
        for age, size, entry in sorted(entries, key=lambda one: one[0]):
            if entry.name.startswith("."):
                # Of a process that has died.
                if age > 2 * WALL_SECONDS:
                    shutil.rmtree(entry, ignore_errors=True)
                continue
            left -= size
            if (left < 0 and left + size != MAX_BYTES) or age > UNUSED_SECONDS:
                self._remove(entry)

    def _remove(self, entry: Path) -> None:
        # Another process may be loading it.
        with suppress(OSError), self._lock(entry.name).open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(entry, ignore_errors=True)


def _is_whole(folder: Path) -> bool:
    """Whether a folder holds graphs that are as they were written."""
    try:
        digests = json.loads((folder / _DIGESTS).read_bytes())
        return bool(digests) and all(name in _GRAPHS and sha256(folder / name) == one for name, one in digests.items())
    except (OSError, ValueError, AttributeError, TypeError):
        return False


def installed(packages: Sequence[str]) -> list[str | None]:
    """Versions of these packages; None for one that isn't installed."""
    found: list[str | None] = []
    for package in packages:
        try:
            found.append(version(package))
        except PackageNotFoundError:
            found.append(None)
    return found


def _key(model: Model, calibration: Sequence[Any], threads: int) -> str:
    """Digest of a model's config and weights, the calibration, the packages, and what affects the engines' speed."""
    import torch

    digest = hashlib.sha256(repr([installed(_PACKAGES), os.cpu_count(), threads]).encode())
    digest.update(json.dumps(model.get_config(), sort_keys=True, default=str).encode())
    for layer in model.walk_layers():
        for weight in layer.own_weights:
            value = weight.value.detach().cpu().contiguous()
            digest.update(repr((weight.name, value.dtype, tuple(value.shape))).encode())
            digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    for array in calibration:
        digest.update(repr((array.dtype.str, array.shape)).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
