"""The engines that tuning has chosen for models, in the state folder, for later starts and other processes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from layergraph.execution.engines.engine import UnfitError
from layergraph.execution.tuning.engine_folder import FILES

from layerserve_server.artifacts.artifacts import KEY, Artifacts
from layerserve_server.artifacts.keys import digest_of, installed, machine, model_digest
from layerserve_server.jobs.channel import never

if TYPE_CHECKING:
    from layergraph import Model

logger = logging.getLogger(__name__)

#: Engine of models whose settings name none.
AUTO: Final = "auto"
#: Maximum size of all engines that are kept, in bytes.
MAX_BYTES: Final = 16 << 30
#: Packages that engines are made by, or whose versions affect their speed.
PACKAGES: Final = ("torch", "onnxruntime", "openvino", "layerserve")


class ChosenEngines:
    """The folder of engines. Processes may share it. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._folders = Artifacts(folder, FILES, max_bytes=MAX_BYTES)

    def open(self, model: Model, threads: int, engine: str = AUTO) -> bool:
        """Lets a model use the engines that are kept for it, if there are any. Returns whether it does."""
        with self._folders.found(_key(model, threads, engine)) as folder:
            if folder is None:
                return False
            try:
                model.plan().open_engines(folder, threads or default_threads(), shared=True)
            except UnfitError as reason:
                logger.info("the engines that were kept aren't used: %s", str(reason)[:300])
                return False
            return True

    def folder_of(self, model: Model, threads: int) -> AbstractContextManager[Path | None]:
        """Gives the folder of a model's engines; None if they aren't kept (see `Artifacts.found`)."""
        return self._folders.found(_key(model, threads, AUTO))

    def named(self, name: str) -> AbstractContextManager[Path | None]:
        """Gives the folder of this name, which one of `folder_of` had. Raises ValueError if it can't be such a name."""
        if not KEY.fullmatch(name):
            raise ValueError(f"engines: got {name!r:.80}, expected a digest")
        return self._folders.found(name)

    @contextmanager
    def made(
        self,
        model: Model,
        threads: int,
        make: Callable[[Path], None],
        engine: str = AUTO,
        stopped: Callable[[], bool] = never,
    ) -> Iterator[Path]:
        """Gives the folder of a model's engines, made by `make` if they aren't kept (see `Artifacts.made`)."""
        with self._folders.made(_key(model, threads, engine), make, stopped) as folder:
            yield folder


def default_threads() -> int:
    """Returns torch's number of threads."""
    import torch

    return torch.get_num_threads()


def _key(model: Model, threads: int, engine: str) -> str:
    layers = [type(layer).__module__ for layer in model.walk_layers()]
    # The code of a plugin's layers may change without any trace in the model: its engines aren't found again.
    code = None if all(module.startswith("layergraph.") for module in layers) else uuid4().hex
    return digest_of(model_digest(model), code, threads, engine, installed(PACKAGES), machine())
