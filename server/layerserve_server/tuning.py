"""Tuning: which engine answers for a version, found out in the background once it serves."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

from layergraph.errors import LayerGraphError
from layergraph.execution.engines.table import EAGER
from layergraph.execution.tuning.result import Choice, Tuning
from layergraph.golden import golden_path, reduce_precision
from layergraph.models.model import Model

from layerserve_server.inference.runner import LoadModel, ServedModel
from layerserve_server.repository.layout import FoundVersion
from layerserve_server.repository.version import LoadedVersion

logger = logging.getLogger(__name__)

#: Seconds that closing waits for the step under way.
_MOST_WAIT = 15.0
#: Of one weight.
_BYTES = 4
#: What an engine's speed depends on, besides the file and the machine.
_PACKAGES = ("torch", "onnxruntime", "openvino", "layerserve")


class EngineUnfitError(LayerGraphError):
    """The engine that the settings name can't run a model."""


def pinning(load: LoadModel, engine: str, threads: int) -> LoadModel:
    """`load`, with the model on that engine. What it loads raises EngineUnfitError where the engine can't run it."""

    def pinned(path: Path) -> ServedModel:
        model = load(path)
        found: Tuning = model.plan().tune(engines=(engine,), threads=threads, shared=True, pin=True)
        if found.dropped:
            raise EngineUnfitError(f"engine '{engine}', which the settings name, can't run it: {found.dropped[engine]}")
        return model

    return load if engine == EAGER else pinned


def reducing(load: LoadModel, precision: str, threads: int) -> LoadModel:
    """`load`, with models in less precision where a proof beside the file allows that; all others as they are."""

    def reduced(path: Path) -> ServedModel:
        model = load(path)
        proof = golden_path(path)
        if not proof.exists():
            logger.warning("%s stays in float32: %s requires %s", path.name, precision, proof.name)
            return model
        try:
            reduce_precision(cast("Model", model), proof, precision, threads, shared=True)
        except Exception as reason:
            logger.warning("%s stays in float32: %s", path.name, str(reason).splitlines()[0])
        else:
            difference = model.engines[0].difference
            logger.info("%s computes in %s", path.name, precision, extra={"largest_difference": difference})
        return model

    return reduced


class Tuner:
    """Tunes versions one after the other, in a thread of its own, and remembers what it found in a folder.

    seconds     for each version, about
    threads     that an engine may use; 0 is torch's number
    max_bytes   of weights; a larger model stays on eager torch, because engines have weights of their own
    """

    def __init__(self, folder: Path, *, seconds: float, threads: int, max_bytes: int) -> None:
        self._folder = folder
        self._seconds = seconds
        self._threads = threads
        self._max_bytes = max_bytes
        self._waiting: list[LoadedVersion] = []
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="tuner", daemon=True)

    def start(self) -> None:
        """Starts to tune what has been submitted."""
        self._thread.start()

    def submit(self, loaded: LoadedVersion) -> None:
        """Tunes a version when its turn comes, if it is still served then."""
        loaded.choosing_engine = True
        with self._wake:
            # Those that were replaced meanwhile go now, with their weights: loading may be quicker than tuning.
            self._waiting = [one for one in self._waiting if not one.retired] + [loaded]
            self._wake.notify()

    def close(self) -> None:
        """Tunes nothing more, and waits for the step under way: a process must not end inside of an engine."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(_MOST_WAIT)

    def _work(self) -> None:
        while self._tune_next():
            pass

    def _tune_next(self) -> bool:
        """Tunes the version that has waited longest, once there is one; gives False when this is closed."""
        with self._wake:
            self._wake.wait_for(lambda: self._waiting or self._closed)
            if self._closed:
                return False
            loaded = self._waiting.pop(0)
        lease = loaded.lease()
        if lease is None:
            return True
        with lease:
            try:
                self._tune(loaded)
            except Exception:
                logger.exception("tuning of model '%s' version %s failed", loaded.name, loaded.version)
            finally:
                loaded.choosing_engine = False
        return True

    def _tune(self, loaded: LoadedVersion) -> None:
        if loaded.model.engines:
            return  # It computes in less precision.
        if loaded.parameter_count * _BYTES > self._max_bytes:
            return

        def stopped() -> bool:
            return self._closed or loaded.retired

        note = self._folder / f"{_key(loaded.found, self._threads)}.json"
        known = _recall(note)
        tuned: Tuning = loaded.model.plan().tune(
            seconds=self._seconds,
            threads=self._threads,
            shared=True,
            known=known,
            stopped=stopped,
        )
        if tuned.choices and not known and not stopped():
            _remember(note, tuned)
        logger.info(
            "model '%s' version %s is tuned",
            loaded.name,
            loaded.version,
            extra={"engines": {str(c.rows): c.engine for c in tuned.choices}, "dropped": dict(tuned.dropped)},
        )


def _key(found: FoundVersion, threads: int) -> str:
    """What the finding holds for: the file's content as far as the disk tells, the machine, the packages."""
    parts: list[Any] = [found.name, found.version, found.fingerprint, os.cpu_count(), threads]
    for package in _PACKAGES:
        try:
            parts.append(version(package))
        except PackageNotFoundError:
            parts.append(None)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _recall(note: Path) -> tuple[Choice, ...]:
    try:
        saved = json.loads(note.read_bytes())
        return tuple(Choice(int(one["rows"]), str(one["engine"]), dict(one["milliseconds"])) for one in saved)
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def _remember(note: Path, tuned: Tuning) -> None:
    choices = [{"rows": c.rows, "engine": c.engine, "milliseconds": dict(c.milliseconds)} for c in tuned.choices]
    temporary = note.with_suffix(".part")
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(choices))
        temporary.replace(note)
    except OSError as error:
        logger.warning("can't save tuning results in %s: %s", note.parent, error.strerror)
