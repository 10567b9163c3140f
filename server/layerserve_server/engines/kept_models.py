"""What a version needs to answer Predict before its file is read, kept in the state folder.

A start imports neither torch nor builds the model's graph for it: the inputs, the outputs and the nodes of layers are
kept here, by the digest of the version's files, and the engines where they are chosen (`chosen_engines`). Opening
compares each engine with the outputs that eager torch gave when it was kept. What is damaged, or was made for another
file, machine or package, isn't found, and the version is loaded from its file.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from layergraph.execution.kept_plan import KeptPlan, NotKeptError
from layergraph.execution.tuning.engine_folder import open_engines
from layergraph.functional.layer_nodes import LayerNodes, NodeTensor
from layergraph.functional.tensor import TensorSpec

from layerserve_server.artifacts.artifacts import DIGESTS, Artifacts
from layerserve_server.artifacts.keys import digest_of, installed, machine
from layerserve_server.disk import json_object, sha256
from layerserve_server.engines.chosen_engines import PACKAGES, ChosenEngines
from layerserve_server.engines.kept_nodes import KeptNodes
from layerserve_server.inference.runner import EngineChoice
from layerserve_server.records import DAMAGED
from layerserve_server.repository.version import LoadedVersion

if TYPE_CHECKING:
    from layergraph import Model

logger = logging.getLogger(__name__)

_NOTE: Final = "model.json"
_NODES: Final = "nodes.json"
#: Variables that set torch's number of threads, and so the engines'.
_THREADS: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class KeptSignature:
    """Names in exports to TensorFlow."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    unnamed: tuple[str, ...]


class KeptModel:
    """A served model (see ServedModel) that has its outputs only. What else is asked of it raises NotKeptError."""

    def __init__(self, note: dict[str, Any], plan: KeptPlan, read_nodes: Callable[[], KeptNodes]) -> None:
        """`read_nodes` reads the nodes of its layers. Raises NotKeptError if they aren't there any more."""
        self._note = note
        self._plan = plan
        self._read_nodes = read_nodes
        self.input_specs, self.output_specs = plan.input_specs, plan.output_specs
        self.input_names = [spec.name for spec in plan.input_specs]
        self.output_names = [spec.name for spec in plan.output_specs]
        self.compiled: bool = note["compiled"]
        self.keras_version: str | None = note["keras_version"]
        self.signatures = {
            key: KeptSignature(*(tuple(names) for names in one)) for key, one in note["signatures"].items()
        }

    @property
    def engines(self) -> Sequence[EngineChoice]:
        """The engines that compute the outputs."""
        return self._plan.engines

    def plan(self, outputs: Sequence[str] | None = None) -> KeptPlan:
        """Returns the plan of all outputs. Raises NotKeptError for others."""
        if outputs is not None and list(outputs) != self.output_names:
            raise NotKeptError("only the plan of all outputs is kept")
        return self._plan

    def count_params(self) -> int:
        """Returns the number of parameters."""
        return int(self._note["parameters"])

    def node_table(self) -> Sequence[LayerNodes]:
        """Returns the nodes of every layer. Raises NotKeptError."""
        return self._read_nodes().layers

    def output_nodes(self) -> Sequence[NodeTensor]:
        """Returns the tensors that the outputs are. Raises NotKeptError."""
        return self._read_nodes().outputs


class KeptModels:
    """The folder of notes. Processes may share it. Thread-safe."""

    def __init__(self, folder: Path, engines: ChosenEngines, threads: int, torch_threads: int) -> None:
        """`threads` is the number of threads per engine, 0 for torch's: `torch_threads`, where 0 is its default."""
        self._folders = Artifacts(folder, (_NOTE, _NODES))
        self._engines = engines
        self._threads = threads
        self._torch_threads = torch_threads

    def keep(self, loaded: LoadedVersion) -> None:
        """Keeps a version whose outputs are all computed by engines that have files. Does nothing for others."""
        import torch

        model = cast("Model", loaded.model)
        plan = model.plan()
        if (
            loaded.parts
            or not loaded.digest
            or not model.engines
            or any(choice.tuned is None or not choice.tuned.exact for choice in plan.engines)
            # Engines are compared with eager torch at each new length.
            or any(None in spec.shape[1:] for spec in plan.input_specs)
        ):
            return
        key = self._key(loaded.digest)
        with self._engines.folder_of(model, self._threads) as folder:
            if folder is None:
                return
            note = {
                "inputs": [_listed(spec) for spec in plan.input_specs],
                "outputs": [_listed(spec) for spec in plan.output_specs],
                "batched": plan.batched,
                "compiled": model.compiled,
                "keras_version": model.keras_version,
                "parameters": model.count_params(),
                "signatures": {k: [one.inputs, one.outputs, one.unnamed] for k, one in model.signatures.items()},
                "threads": self._threads or torch.get_num_threads(),
                "engines": folder.name,
                "digest": sha256(folder / DIGESTS),
            }
        text = json.dumps(note)

        def make(unfinished: Path) -> None:
            (unfinished / _NOTE).write_text(text)
            (unfinished / _NODES).write_text(KeptNodes.of(model).write())

        with self._folders.found(key) as folder:
            if folder is not None and (folder / _NOTE).read_text() == text:
                return
        with suppress(OSError), self._folders.locked(key):
            # Of other engines, which may have been damaged, or not be there any more.
            shutil.rmtree(self._folders.path(key), ignore_errors=True)
        with self._folders.made(key, make):
            pass

    def open(self, digest: str) -> KeptModel | None:
        """Returns the model of a version's files, by their digest; None if it isn't kept, or can't be opened."""
        key = self._key(digest)
        with self._folders.found(key) as folder:
            if folder is None:
                return None
            try:
                note = json_object((folder / _NOTE).read_bytes())
                with self._engines.named(note["engines"]) as engines:
                    if engines is None or sha256(engines / DIGESTS) != note["digest"]:
                        return None
                    inputs, outputs = ([_spec(one) for one in note[name]] for name in ("inputs", "outputs"))
                    dtypes = [spec.dtype for spec in inputs]
                    tuning = open_engines(engines, dtypes, int(note["threads"]), shared=True)
                plan = KeptPlan(inputs, outputs, tuning, batched=bool(note["batched"]))
                return KeptModel(note, plan, partial(self._nodes, key))
            except Exception as reason:
                # Engines may raise anything.
                logger.info("a version is loaded from its file, as what was kept can't be opened: %.300s", reason)
                return None

    def _nodes(self, key: str) -> KeptNodes:
        with self._folders.found(key) as folder:
            if folder is None:
                raise NotKeptError("the nodes aren't kept any more")
            try:
                return KeptNodes.read((folder / _NODES).read_bytes())
            except DAMAGED as error:
                raise NotKeptError("the nodes can't be read") from error

    def _key(self, digest: str) -> str:
        variables = [os.environ.get(name) for name in _THREADS]
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        threads = self._threads, self._torch_threads, variables, cores
        return digest_of(digest, threads, installed((*PACKAGES, "numpy")), machine())


def _listed(spec: TensorSpec) -> list[Any]:
    return [spec.name, list(spec.shape), spec.dtype]


def _spec(listed: list[Any]) -> TensorSpec:
    name, shape, dtype = listed
    return TensorSpec(name, tuple(shape), dtype)
