"""Construction of the parts of every process that serves Predict: the main process (`app`) and the workers."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from layerserve_server.access.gate import Gate
from layerserve_server.access.group import ProcessGroup
from layerserve_server.access.rights import CORE, Right
from layerserve_server.core_protocols import CORE_PROTOCOLS
from layerserve_server.disk import sha256
from layerserve_server.engines.model_loader import engine_of, kept_models, make_tuner, open_kept
from layerserve_server.errors import UnavailableError, UnknownModelError
from layerserve_server.extensions.extension import Part, Process, Source, Web
from layerserve_server.extensions.installed import EXTENSIONS, VERIFIERS, model_settings
from layerserve_server.importing.imports import Imports
from layerserve_server.inference.batching import BatchQueue
from layerserve_server.inference.runner import ModelRunner
from layerserve_server.jobs.jobs import Jobs
from layerserve_server.observability.access_log import AccessLog
from layerserve_server.observability.metrics import Metrics
from layerserve_server.observability.telemetry import CallTelemetry
from layerserve_server.repository.folder import RepositoryFolder
from layerserve_server.repository.model_settings import DEFAULTS, ModelSettings
from layerserve_server.repository.remembered_callers import RememberedCallers
from layerserve_server.repository.repository import Repository, RepositoryOptions
from layerserve_server.repository.usage import Usage
from layerserve_server.repository.version import LoadedVersion
from layerserve_server.repository.version_reader import Load, MakeDecoders, MakeParts, VersionReader
from layerserve_server.services.prediction.predictor import Predictor
from layerserve_server.settings.settings import Settings
from layerserve_server.transport.call import Routes
from layerserve_server.transport.certificates import Certificates
from layerserve_server.transport.forwarding import CallForwarder
from layerserve_server.transport.grpcio import GrpcioServer, SharedPort
from layerserve_server.transport.native import NativeServer
from layerserve_server.transport.perimeter.limits import Limits
from layerserve_server.transport.perimeter.memory import MemoryBudget, default_limit
from layerserve_server.transport.status import WORDS

if TYPE_CHECKING:
    from layerserve_server.training.runs.tracer import Tracer
    from layerserve_server.transport.http.exchange import Plain
    from layerserve_server.transport.http.server import HttpServer


logger = logging.getLogger(__name__)

#: The protocols of the core, then the extensions.
ALL = (*CORE_PROTOCOLS, *EXTENSIONS)
#: The right of each method, and of each path of the metrics port.
RIGHTS: Mapping[str, Right] = {**CORE, **{name: right for one in ALL for name, right in one.rights.items()}}
WORDS.update({service: words for one in ALL for service, words in one.words.items()})
#: The modules of their jobs without torch.
JOB_MODULES = [module for one in ALL for module in one.job_modules]
#: Interval at which it is written down which models were used last, in seconds.
USAGE_SECONDS = 10.0


class Inference:
    """Metrics, repository and prediction service of a process."""

    def __init__(
        self,
        settings: Settings,
        load: Load,
        jobs: Jobs,
        imports: Imports | None = None,
        group: ProcessGroup | None = None,
        *,
        main_socket: Path | None = None,
    ) -> None:
        """`load` loads a model file (see `ModelLoader`); `group` is what its processes share. Nothing is loaded yet.

        A worker has the `main_socket`, of the main process, and fetches no models. Raises TokensFileError,
        CertificateError, and ValueError if an extension can't make its tracer.
        """
        worker = main_socket is not None
        self._settings = settings
        self._jobs = jobs
        self.metrics = Metrics()
        self.gate = make_gate(settings, self.metrics, group)
        self.certificates = make_certificates(settings, self.metrics)
        #: None if there are no traces.
        self.tracer = make_tracer(self.metrics)
        #: None if there are neither traces nor an access log.
        self.telemetry = make_telemetry(settings, self.metrics, self.tracer)
        #: None where there is nothing to tune.
        self.tuner = make_tuner(settings, jobs, imports)
        #: None if PATH is a folder or file of this machine.
        self._source = make_source(settings, self.metrics, fetches=not worker)
        self._usage = Usage(settings.state_folder / "usage.json")
        self._filler = threading.Thread(target=self._fill, name="fill memory", daemon=True)
        self._closed = False
        self.make_decoders: list[MakeDecoders] = []
        self.make_parts: list[MakeParts] = []
        self._to_main = None if main_socket is None else CallForwarder(main_socket, self.gate)
        self.repository = Repository(
            RepositoryFolder(
                settings.root,
                settings.state_folder / "models",
                source=None if self._source is None else self._source.origin,
                # What a source puts into the folder is complete.
                settle_seconds=2 * settings.poll_seconds if self._source is None else 0.0,
            ),
            VersionReader(
                load,
                partial(make_queue, settings, self.metrics),
                sha256 if imports is None else imports.sha256,
                self.make_decoders,
                self.make_parts,
                partial(open_kept, settings, kept_models(settings)),
            ),
            self.metrics,
            RepositoryOptions(
                max_old_versions=settings.max_old_versions,
                # Mapped weights are shared by the processes, but counted in each.
                max_bytes=settings.max_model_bytes // settings.workers,
                polls=settings.model_control == "poll",
                loads=settings.loads,
                defaults=model_settings()(),
                queue_limits=partial(queue_limits, settings),
            ),
            remembered=RememberedCallers(settings.state_folder / "callers", writes=not worker),
            ready=self._ready,
            writer=None if self._source is None else self._source.writer,
            used=self._usage.read(),
        )
        self.repository.catalogue.suggests = self.gate.trusted is not None
        self.metrics.watch_loaded(self.repository.memory.loaded_bytes)
        self.predictor = Predictor(self.repository)

    def parts(self) -> list[Part]:
        """Returns what each protocol and extension adds to every process."""
        process = Process(
            settings=self._settings,
            metrics=self.metrics,
            repository=self.repository,
            predictor=self.predictor,
            jobs=self._jobs,
            make_decoders=self.make_decoders,
            make_parts=self.make_parts,
            forward=None if self._to_main is None else self._to_main.forward,
        )
        return [one.serving(process) for one in ALL]

    def refresh_access(self) -> None:
        """Reads tokens, their keys, and certificates again if their files have changed."""
        self.gate.refresh()
        if self.certificates is not None:
            self.certificates.refresh()

    def open(self) -> None:
        """Reads the repository for the first time. Waits for versions that arrive if a model has no other.

        Raises OSError if the folder can't be read, or the source doesn't answer and nothing of it is kept.
        """
        source = self._source
        if source is None:
            self.repository.open()
            return
        source.open()
        self.repository.open()
        source.start()
        while missing := self._arriving(source):
            wait(missing, return_when=FIRST_COMPLETED)
            self.repository.scan()

    def _arriving(self, source: Source) -> list[Future[None]]:
        """Versions that arrive of models that have none that is ready."""
        ready = {one.name for one in self.repository.catalogue.describe() if one.default}
        return [task for (name, _), task in source.arriving().items() if name not in ready]

    def fill(self) -> None:
        """Loads models before a request comes for them, in a thread, if not all are in memory anyway."""
        if self.repository.memory.limited:
            self._filler.start()

    def _fill(self) -> None:
        try:
            self.repository.leases.fill(lambda: self._closed)
        except Exception:
            logger.exception("models aren't loaded before requests come for them")

    def close(self) -> None:
        """Ends fetching, and retires all versions."""
        self._closed = True
        self._note_use(0.0)
        if self._source is not None:
            self._source.stop()
        if self._to_main is not None:
            self._to_main.close()
        self.repository.close()

    def watch(self) -> None:
        """What a watcher does: follows the files, or only tries failed loads again, as the settings say."""
        if self._settings.model_control == "poll":
            self.repository.scan()
        else:
            self.repository.rollout.retry()
        if self.repository.memory.limited:
            for loaded in self.repository.memory.worth_tuning():
                self._tune(loaded)
            self.repository.memory.shrink()
            self._note_use(USAGE_SECONDS)

    def _note_use(self, seconds: float) -> None:
        """Writes down which models were used last, unless that was done less than this time ago."""
        if self.repository.memory.limited:
            self._usage.write(self.repository.memory.uses(), seconds)

    def _ready(self, loaded: LoadedVersion) -> None:
        """Tunes a version that has been loaded. With a limit of memory only when it has been used often."""
        if not self.repository.memory.limited:
            self._tune(loaded)

    def _tune(self, loaded: LoadedVersion) -> None:
        """Tunes a version, unless its settings name an engine."""
        if self.tuner is not None and engine_of(self._settings, loaded.settings) == "auto":
            self.tuner.submit(loaded)

    def listen(self, routes: Routes, shared: SharedPort | None) -> GrpcioServer | NativeServer:
        """Makes the transport of the settings on its port.

        Raises OSError if the port is taken, NativeUnavailableError, and MissingRightError if a route has no right.
        """
        settings = self._settings
        transport = (NativeServer if settings.transport == "native" else GrpcioServer)(
            routes,
            self.metrics,
            limits(settings),
            host=settings.host,
            port=settings.grpc_port,
            certificates=self.certificates,
            shared=shared,
            gate=self.gate,
            models=self.serving,
            telemetry=self.telemetry,
        )
        self.metrics.watch_memory(lambda: transport.memory.used, transport.memory.limit)

        def changed() -> None:
            self.gate.reserved.set(self.repository.catalogue.restrictions)
            transport.models_changed()

        self.repository.catalogue.listeners.append(changed)
        changed()
        return transport

    def listen_http(
        self,
        handlers: Routes,
        parts: Sequence[Part],
        memory: MemoryBudget,
        grpc_port: int,
        shared: SharedPort | None,
        ready: Callable[[], bool] | None = None,
    ) -> HttpServer | None:
        """Makes the server for HTTP, of the same handlers and memory; None if the settings turn it off.

        `parts` are those of this process, and `grpc_port` is the actual port. A worker has no `ready`: the main process
        answers its paths without rights. Raises OSError if the port is taken.
        """
        settings = self._settings
        if settings.http_port < 0:
            return None
        # Imported here, since its packages may be missing (see `settings.extras`).
        from layerserve_server.services.rest import openapi
        from layerserve_server.services.rest.body_reader import BodyReader
        from layerserve_server.services.rest.probe_paths import probe_paths
        from layerserve_server.transport.http.hosts import Hosts
        from layerserve_server.transport.http.server import HttpServer

        reader = BodyReader(self._jobs, limits(settings), memory)
        web = Web(reader=reader, hosts=Hosts(settings.host_names), grpc_port=grpc_port)
        paths = [part.http(web) for part in parts]
        # An extension may have paths of methods of another one, which may have been taken away.
        routes = [route for one in paths for route in one.routes if route.method in handlers.unary]
        plain: dict[str, Plain] = {}
        if ready is not None:
            routes += openapi.routes(self.repository, [part.openapi for part in parts if part.openapi is not None])
            plain |= probe_paths(ready)
        for one in paths:
            plain |= one.plain
        return HttpServer(
            routes,
            plain,
            handlers,
            self.metrics,
            limits(settings),
            memory,
            self.gate,
            host=settings.host,
            port=settings.http_port,
            certificates=self.certificates,
            telemetry=self.telemetry,
            hosts=web.hosts,
            shared=shared,
        )

    def serving(self, model: str) -> bool | None:
        """Whether a version of a model answers requests that name none; None if there is no such model."""
        try:
            return self.repository.catalogue.describe_one(model).answers
        except UnknownModelError:
            return None
        except UnavailableError:  # models are still being read
            return False


def routes_of(parts: Iterable[Part]) -> Routes:
    """Returns the handlers of all services."""
    routes = Routes()
    for part in parts:
        for service in part.services:
            routes.add(service.routes())
    return routes


def make_source(settings: Settings, metrics: Metrics, *, fetches: bool) -> Source | None:
    """Returns what an extension reads PATH with; None for a folder or file. Raises ValueError if a package is missing.

    One process of a server `fetches`; the others wait for what it fetches.
    """
    made = (one.source(settings, metrics, fetches) for one in ALL)
    return next((one for one in made if one is not None), None)


def make_tracer(metrics: Metrics) -> Tracer | None:
    """Returns an extension's tracer; None if there are no traces. Raises ValueError if it can't be made."""
    tracers = (one.tracer(partial(metrics.telemetry_dropped, "traces")) for one in ALL)
    return next((one for one in tracers if one is not None), None)


def make_telemetry(settings: Settings, metrics: Metrics, tracer: Tracer | None) -> CallTelemetry | None:
    """Returns what reports each call; None if there are neither traces nor an access log."""
    share = settings.access_log
    log = AccessLog(share, partial(metrics.telemetry_dropped, "access_log")) if share else None
    return CallTelemetry(tracer, log) if tracer is not None or log is not None else None


def make_gate(settings: Settings, metrics: Metrics, group: ProcessGroup | None = None) -> Gate:
    """Returns what admits callers. Raises TokensFileError."""
    return Gate(
        settings.tokens,
        certificates=settings.tls_client_ca is not None,
        anonymous=settings.anonymous_rights,
        rights=RIGHTS,
        kinds=VERIFIERS,
        group=group,
        reread=metrics.access_reread,
    )


def make_imports(settings: Settings, jobs: Jobs, spare: Path | None = None) -> Imports | None:
    """Returns what has model files read by another process; None if the settings turn that off.

    `spare` is a folder that all processes of the server share, in case that they can't write the state folder.
    """
    return Imports(settings.state_folder / "imports", jobs, spare) if settings.probe_files else None


def limits(settings: Settings) -> Limits:
    """Returns the transport's limits in the settings."""
    given = {field.name: getattr(settings, field.name) for field in fields(Limits)}
    # The memory budget is divided among the processes.
    given["max_buffered_bytes"] = max(1, (settings.max_buffered_bytes or default_limit()) // settings.workers)
    return Limits(**given)


def make_queue(
    settings: Settings,
    metrics: Metrics,
    name: str,
    version: int,
    run: ModelRunner,
    model: ModelSettings = DEFAULTS,
) -> BatchQueue:
    """Makes the queue of a version. Raises UnpaddableError if the settings require padding and it can't be padded."""
    if settings.pads(name) if model.pad_sequences is None else model.pad_sequences:
        run.pad_sequences()
    max_batch_rows, max_queue_rows = queue_limits(settings, model)
    queue = BatchQueue(
        f"model '{name}' version {version}",
        run,
        max_batch_rows=max_batch_rows,
        max_queue_rows=max_queue_rows,
        observer=metrics.batches(name, version),
        nice=model.nice,
    )
    metrics.watch_queue(name, version, lambda: queue.queued_rows, lambda: queue.queued_requests)
    return queue


def queue_limits(settings: Settings, model: ModelSettings) -> tuple[int, int]:
    """Returns the maximum number of rows of a batch and of a queue, for a model with these settings."""
    return model.max_batch_rows or settings.max_batch_rows, model.max_queue_rows or settings.max_queue_rows


def make_certificates(settings: Settings, metrics: Metrics) -> Certificates | None:
    """Returns the certificates of the settings; None if TLS is off. Raises CertificateError."""
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    return Certificates(
        settings.tls_certificate,
        settings.tls_key,
        settings.tls_client_ca,
        reread=lambda ok: metrics.access_reread("certificate", ok),
    )
