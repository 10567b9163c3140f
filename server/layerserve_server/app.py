"""The main process of a server: the parts of every process (see `wiring`), training, all services, and probes."""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Iterable, Sequence
from functools import partial
from importlib.metadata import version as package_version
from pathlib import Path
from types import TracebackType

from prometheus_client import CollectorRegistry

from layerserve_server.datasets import description
from layerserve_server.datasets.store import DatasetLimits, DatasetStore
from layerserve_server.engines.model_loader import ModelLoader
from layerserve_server.errors import UnavailableError
from layerserve_server.extensions.extension import Core, Part
from layerserve_server.importing import sandbox
from layerserve_server.inference import runner
from layerserve_server.inference.runner import LoadModel
from layerserve_server.jobs.jobs import Jobs
from layerserve_server.observability.process_metrics import ProcessMetrics, register_build_info
from layerserve_server.processes.supervisor import AllMetrics, Supervisor
from layerserve_server.repository.audit import AuditLog
from layerserve_server.repository.changes import Changes
from layerserve_server.repository.management import Manager
from layerserve_server.repository.uploads import Uploads
from layerserve_server.repository.watching import Watcher
from layerserve_server.services.open_inference.additions import Additions
from layerserve_server.services.open_work import OpenWork
from layerserve_server.services.run_requests import RunDefaults
from layerserve_server.services.server import ServerState
from layerserve_server.settings.settings import Settings
from layerserve_server.training.conversion import Converter
from layerserve_server.training.process.run_process import MakeProcess
from layerserve_server.training.process.training_process import TrainingProcess
from layerserve_server.training.run_limits import RunLimits
from layerserve_server.training.runs.execution import TRAINER
from layerserve_server.training.runs.registry import Runs
from layerserve_server.transport.call import Routes
from layerserve_server.transport.grpcio import SharedPort
from layerserve_server.transport.health import SERVICE as HEALTH
from layerserve_server.transport.probes import MetricPage, Probes
from layerserve_server.transport.shutdown import END_SECONDS, LEFT_SECONDS, Shutdown
from layerserve_server.wiring import ALL, JOB_MODULES, Inference, make_imports, routes_of

logger = logging.getLogger(__name__)

#: Interval between two looks for expired datasets, in seconds.
DATASET_SECONDS = 60.0


class App:
    """A server in this process. Call `start` and `stop`, or use it as a context manager.

    `grpc_port`, `http_port` and `metrics_port` are the actual ports, also if the settings have 0; -1 means none.
    """

    def __init__(
        self,
        settings: Settings,
        load: LoadModel | None = None,
        jobs: Jobs | None = None,
        trainer: Sequence[str] = TRAINER,
    ) -> None:
        """`load` loads a model file (default: with layergraph), `jobs` does what isn't done in this process, and
        `trainer` is the command that executes a run.

        Raises ValueError if the path can't be served, OSError if a port is taken.
        """
        self.settings = settings
        if isinstance(settings.path, Path) and not settings.root.exists():
            raise ValueError(
                f"{settings.root}: no such folder or model file; expected one of the two, the folder may be empty"
            )
        self._workers = Supervisor(settings) if settings.workers > 1 else None
        spare = self._workers.spare_imports if self._workers else None
        kinds = [kind for one in ALL for kind in one.run_kinds(settings)]
        self._jobs = jobs = jobs or Jobs(
            settings.check_seconds,
            settings.check_bytes,
            keep_warm=settings.warm_training and settings.training_slots > 0,
            modules=JOB_MODULES,
            programs=[kind.program for kind in kinds if kind.program],
        )
        self._imports = make_imports(settings, jobs, spare) if load is None else None
        group = self._workers.group if self._workers else None
        self._load_model = load_model = ModelLoader(settings, jobs, load, self._imports)
        self._inference = inference = Inference(settings, load_model, jobs, self._imports, group)
        self.metrics, self.repository = inference.metrics, inference.repository
        self.runs = Runs(
            settings.state_folder / "runs",
            self.repository,
            jobs,
            run_limits(settings),
            self.metrics,
            trainer,
            inference.tracer,
            _run_processes(settings),
            kinds,
        )
        self.datasets = DatasetStore(
            settings.state_folder / "datasets", dataset_limits(settings), partial(description.described_dataset, jobs)
        )
        self._dataset_watcher = Watcher(DATASET_SECONDS, self._sweep_datasets)
        self._work = OpenWork(self.runs)
        self._access_watcher = Watcher(settings.poll_seconds, inference.refresh_access)
        registry = AllMetrics(self.metrics.registry, self._workers) if self._workers else self.metrics.registry
        release = package_version("layerserve")
        changes = self._make_changes()
        routes = Routes()
        core = Core(
            settings=settings,
            metrics=self.metrics,
            repository=self.repository,
            predictor=inference.predictor,
            make_decoders=inference.make_decoders,
            make_parts=inference.make_parts,
            manager=Manager(self.repository, changes, open_work=self._work.of_model),
            uploads=Uploads(self.repository, changes, max_bytes=settings.max_upload_bytes),
            runs=self.runs,
            datasets=self.datasets,
            work=self._work,
            defaults=run_defaults(settings),
            converter=Converter(jobs),
            jobs=jobs,
            registry=registry,
            release=release,
            state=self._state,
            services=lambda: [*routes.services(), HEALTH],
            open_inference=Additions(),
        )
        self._parts = [*inference.parts(), *(one.main(core) for one in ALL)]
        scans = [part.scan for part in self._parts]
        self._watcher = Watcher(settings.poll_seconds, inference.watch, self.runs.table.scan, *scans)
        self._pages = metric_pages(registry, self._parts)
        inference.gate.require_rights(self._pages)
        routes.add(routes_of(self._parts))
        shared = SharedPort(self._workers.socket, owner=True) if self._workers else None
        self._transport = inference.listen(routes, shared)
        memory, port = self._transport.memory, self._transport.port
        self._http = inference.listen_http(routes, self._parts, memory, port, shared, lambda: self.ready)
        # Registered in this process only: it includes the workers' values, and build info isn't to be summed.
        ProcessMetrics(self.metrics.registry, self._workers.pids if self._workers else list)
        self.metrics.watch_versions(self.repository.catalogue.states)
        self.metrics.watch_ready(lambda: self.ready)
        register_build_info(self.metrics.registry, release)
        self.grpc_port = self._transport.port
        self.http_port = self._http.port if self._http is not None else -1
        self.metrics_port = -1
        self._probes: Probes | None = None
        #: Whether clients should use this server.
        self.ready = False
        self._draining = False
        # Runs may have longer to write a checkpoint.
        self._shutdown = Shutdown(max(END_SECONDS, settings.cancel_grace_seconds))

    def _state(self) -> ServerState:
        """What the server does now, as `GetServer` tells it."""
        return "draining" if self._draining else "serving" if self.ready else "starting"

    def _make_changes(self) -> Changes:
        settings, workers = self.settings, self._workers
        if workers is not None:
            workers.in_force = self.repository.catalogue.in_force_without_files
        if workers is not None and settings.model_control != "poll":
            # Otherwise a worker that is started again would have what has changed since on disk.
            workers.catalogue = self.repository.catalogue.versions

        def follow(model: str) -> Sequence[str]:
            return workers.follow(model, self.repository.catalogue.serving) if workers else ()

        changes = Changes(self.repository, AuditLog(settings.state_folder), follow)
        self.repository.publisher.run_published = changes.note_run
        return changes

    def start(self) -> None:
        """Starts to receive calls. Returns when all models and runs have been read and health is SERVING.

        Earlier calls are answered if their model or run has been read, and otherwise fail with UNAVAILABLE. If the port
        were opened later, clients would wait instead of using another server.
        """
        if self.settings.metrics_port >= 0:
            admit, pages = self._inference.gate.admit_http, self._pages
            self._probes = Probes(self.settings.host, self.settings.metrics_port, pages, lambda: self.ready, admit)
            self.metrics_port = self._probes.port
        self._inference.gate.start()
        self._access_watcher.start()
        self._transport.start()
        if self._http is not None:
            self._http.start()
        if self._imports is not None:
            logger.info("model files are read by a separate process with %s", sandbox.description())
        if runner.has_plugins(self.settings.plugins):
            # Otherwise with the first model that wasn't kept: it takes seconds.
            self._load_model.prepare()
        if self.settings.training_device != "cpu":
            # Imported here, since it imports torch.
            from layerserve_server.training.process.gpu import check

            check(self.settings.training_device)
        if self.settings.warm_training and self.settings.training_slots:
            # While models are loaded, so that it doesn't compete for the processor with requests afterwards.
            self._jobs.warm_up()
        self.repository.folder.sweep()
        self._inference.open()
        self.runs.start()
        for part in self._parts:
            part.start()
        self._watcher.start()
        self._sweep_datasets()
        self._dataset_watcher.start()
        if self._workers is not None:
            self._workers.start(self.grpc_port, self.http_port)
        self._set_ready(True)
        if self._inference.tuner is not None:
            # Not earlier: loading would distort the timings of engines, and be delayed by them.
            self._inference.tuner.start()
        self._inference.fill()
        ports = {"grpc_port": self.grpc_port, "http_port": self.http_port, "metrics_port": self.metrics_port}
        logger.info("serving", extra=ports)

    @property
    def methods(self) -> list[str]:
        """Full names of all gRPC methods."""
        return self._transport.methods

    def drain(self) -> None:
        """Sets health to NOT_SERVING, so that clients use another server. Calls are still answered."""
        self._draining = True
        self._set_ready(False)
        if self._workers is not None:
            self._workers.drain()
        if self._http is not None:
            self._http.drain()
        logger.info("draining: health is NOT_SERVING, calls are still accepted")

    def stop(self, grace: float = 0.0) -> None:
        """Refuses further calls with UNAVAILABLE, and waits up to `grace` seconds for open calls.

        What doesn't end within END_SECONDS after that is logged and left: each process of a server may be killed at any
        time. May be called again meanwhile, with a shorter grace period.
        """
        self._set_ready(False)
        logger.info("stopping: new calls are rejected, open calls have %g seconds to finish", grace)
        shutdown, calls = self._shutdown, []
        for transport in (self._transport, self._http):
            if transport is not None:
                calls.append(shutdown.begin("open calls", partial(transport.stop, grace)))
        if self._workers is not None:
            self._workers.refuse(grace)
        shutdown.run(grace, partial(self._end, calls, grace))

    def _end(self, calls: Sequence[threading.Thread], grace: float) -> None:
        shutdown, workers = self._shutdown, self._workers
        tuner, telemetry = self._inference.tuner, self._inference.telemetry
        watchers = (self._watcher, self._dataset_watcher, self._access_watcher)
        for watcher in watchers:
            watcher.stop()
        self._inference.gate.stop()
        tuning = shutdown.begin("the tuning of engines", tuner.close) if tuner is not None else None
        shutdown.end(calls[0], math.inf, LEFT_SECONDS)
        if workers is not None:
            # Not before, since they pass on the last replies of this process.
            shutdown.step("the workers", partial(workers.stop, grace), math.inf, LEFT_SECONDS)
        for call in calls[1:]:
            shutdown.end(call, math.inf, LEFT_SECONDS)
        for part in self._parts:
            shutdown.step(part.stop.__module__, part.stop)
        shutdown.step("training runs", self.runs.stop, math.inf)
        for part in self._parts:
            shutdown.step(part.close.__module__, part.close)
        if tuning is not None:
            shutdown.end(tuning)
        for watcher in watchers:
            # It may be loading a large model.
            shutdown.step("a scan of the repository", watcher.wait)
        if self._imports is not None:
            shutdown.step("the kept imports", self._imports.close)
        shutdown.step("the processes of jobs", self._jobs.close)
        shutdown.step("models and their source", self._inference.close)
        if self._probes is not None:
            shutdown.step("the port of metrics", self._probes.close)
        if telemetry is not None:
            shutdown.step("traces and the access log", telemetry.close)
        logger.info("stopped")

    def _sweep_datasets(self) -> None:
        try:
            self.datasets.sweep(self._work.using)
        except UnavailableError as error:
            # A folder can't be read, which was logged: what uses a dataset isn't known.
            logger.debug("expired datasets aren't searched for: %s", error)
        except Exception:
            logger.exception("the search for expired datasets failed")

    def _set_ready(self, ready: bool) -> None:
        self.ready = ready
        self._transport.set_serving(ready)

    def __enter__(self) -> App:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def metric_pages(registry: CollectorRegistry, parts: Iterable[Part]) -> dict[str, MetricPage]:
    """Returns the pages of metrics by path: the server's own, and those of the parts."""
    pages = {"/metrics": MetricPage(registry)}
    for part in parts:
        pages |= part.metric_pages
    return pages


def _run_processes(settings: Settings) -> MakeProcess:
    """Returns what makes the handles of processes of runs. Raises ValueError if what an extension needs is missing."""
    made = (one.run_processes(settings) for one in ALL)
    return next((one for one in made if one is not None), TrainingProcess)


def run_limits(settings: Settings) -> RunLimits:
    """Returns the limits of training runs in the settings."""
    return RunLimits(
        slots=settings.training_slots,
        max_queued=settings.max_queued_runs,
        max_bytes=settings.max_run_bytes,
        max_kept=settings.max_kept_runs,
        cancel_grace_seconds=settings.cancel_grace_seconds,
        auto_resume=settings.training_resume == "auto",
        max_workers=settings.max_workers,
        max_written=settings.max_written_bytes,
    )


def dataset_limits(settings: Settings) -> DatasetLimits:
    """Returns the limits of datasets in the settings."""
    return DatasetLimits(settings.max_dataset_bytes, settings.dataset_seconds, settings.dataset_upload_seconds)


def run_defaults(settings: Settings) -> RunDefaults:
    """Returns the settings of all training runs."""
    return RunDefaults(
        threads=settings.training_threads or max(1, (os.cpu_count() or 1) // 2),
        device=settings.training_device,
        nice=settings.training_nice,
        checkpoint_seconds=settings.checkpoint_seconds,
        data_root=settings.data_root,
    )
