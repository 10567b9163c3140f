"""Construction of the parts of every process that serves Predict: the main process (`app`) and the workers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerserve_server.access.gate import Gate
from layerserve_server.disk import sha256
from layerserve_server.importing.importer import Importer
from layerserve_server.importing.imports import Imports
from layerserve_server.inference import runner
from layerserve_server.inference.batching import BatchQueue
from layerserve_server.inference.runner import LoadModel, ModelRunner
from layerserve_server.observability.metrics import Metrics
from layerserve_server.repository.repository import Repository
from layerserve_server.services.open_inference.inference import InferService
from layerserve_server.services.prediction.predictor import Predictor
from layerserve_server.services.prediction.service import PredictionService
from layerserve_server.settings import Settings
from layerserve_server.transport.call import Routes
from layerserve_server.transport.certificates import Certificates
from layerserve_server.transport.grpcio import GrpcioServer, SharedPort
from layerserve_server.transport.limits import Limits
from layerserve_server.transport.memory import MemoryBudget, default_limit
from layerserve_server.transport.native import NativeServer

if TYPE_CHECKING:
    from layerserve_server.transport.http.server import HttpServer
    from layerserve_server.tuning import Tuner


class Inference:
    """Metrics, repository and prediction service of a process."""

    def __init__(
        self, settings: Settings, load: LoadModel, imports: Imports | None = None, secret: bytes | None = None
    ) -> None:
        """`load` loads a model file (see `loader`); `secret` is that of the server's gates. Nothing is loaded yet.

        Raises TokensFileError and CertificateError.
        """
        self._settings = settings
        self.metrics = Metrics()
        self.gate = make_gate(settings, self.metrics, secret)
        self.certificates = make_certificates(settings, self.metrics)
        #: None where there is nothing to tune.
        self.tuner = make_tuner(settings)
        self.repository = Repository(
            Path(settings.path),
            settings.state_folder / "models",
            load,
            lambda name, version, run: make_queue(settings, self.metrics, name, version, run),
            max_old_versions=settings.max_old_versions,
            settle_seconds=2 * settings.poll_seconds,
            observer=self.metrics,
            ready=self.tuner.submit if self.tuner else None,
            digest=sha256 if imports is None else imports.sha256,
        )
        self.predictor = Predictor(self.repository)

    def routes(self) -> Routes:
        """Returns the handlers of the methods that run models, of all protocols."""
        routes = PredictionService(self.predictor).routes()
        routes.add(InferService(self.predictor).routes())
        return routes

    def refresh_access(self) -> None:
        """Reads tokens, their keys, and certificates again if their files have changed."""
        self.gate.refresh()
        if self.certificates is not None:
            self.certificates.refresh()

    def listen(self, routes: Routes, shared: SharedPort | None, **options: Any) -> GrpcioServer | NativeServer:
        """Makes the transport of the settings on its port. `options` are passed to the transport.

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
            **options,
        )
        self.metrics.watch_memory(lambda: transport.memory.used)
        return transport

    def listen_http(self, routes: Routes, memory: MemoryBudget, ready: Callable[[], bool]) -> HttpServer | None:
        """Makes the server for HTTP, of the same handlers and memory; None if the settings turn it off.

        Raises OSError if the port is taken, and ValueError if a package is missing.
        """
        settings = self._settings
        if settings.http_port < 0:
            return None
        try:
            from layerserve_server.services.rest.serving import make_server
        except ImportError as error:
            raise ValueError(f"http_port: requires the package {error.name}: pip install 'layerserve[http]'") from error
        address: dict[str, Any] = {"host": settings.host, "port": settings.http_port}
        return make_server(routes, self.metrics, limits(settings), memory, self.gate, ready, **address)


def make_gate(settings: Settings, metrics: Metrics, secret: bytes | None = None) -> Gate:
    """Returns what admits callers. Raises TokensFileError."""
    return Gate(
        settings.tokens,
        certificates=settings.tls_client_ca is not None,
        anonymous=settings.anonymous_rights,
        secret=secret,
        reread=metrics.access_reread,
    )


def make_imports(settings: Settings, spare: Path | None = None) -> Imports | None:
    """Returns what has model files read by another process; None if the settings turn that off.

    `spare` is a folder that all processes of the server share, in case that they can't write the state folder.
    """
    return Imports(settings.state_folder / "imports", Importer(), spare) if settings.probe_files else None


def loader(settings: Settings, load: LoadModel | None = None, imports: Imports | None = None) -> LoadModel:
    """Returns the function that loads model files according to the settings, by default with layergraph.

    `imports` has them read by another process; by default this one reads them.
    """
    if load is None:
        load = runner.load_model if imports is None else partial(runner.load_model, read=imports.load)
    # Imported here, since these modules import torch.
    if settings.engine != "auto":
        from layerserve_server.tuning import pinning

        load = pinning(load, settings.engine, settings.compute_threads)
    if settings.precision != "float32":
        from layerserve_server.tuning import reducing

        load = reducing(load, settings.precision, settings.compute_threads)
    return load


def make_tuner(settings: Settings) -> Tuner | None:
    """Returns the tuner of engines; None if the settings choose an engine or turn tuning off."""
    if settings.engine != "auto" or settings.tuning_seconds <= 0:
        return None
    from layerserve_server.tuning import Tuner

    return Tuner(
        settings.state_folder / "tuning",
        seconds=settings.tuning_seconds,
        threads=settings.compute_threads,
        max_bytes=settings.tuning_max_bytes,
    )


def limits(settings: Settings) -> Limits:
    """Returns the transport's limits in the settings."""
    return Limits(
        max_message_bytes=settings.max_message_bytes,
        rpc_threads=settings.rpc_threads,
        max_streams=settings.max_streams,
        max_calls=settings.max_calls,
        max_peer_streams=settings.max_peer_streams,
        # The default memory budget is divided among the processes.
        max_buffered_bytes=settings.max_buffered_bytes or default_limit() // settings.workers,
        stream_idle_seconds=settings.stream_idle_seconds,
        stalled_seconds=settings.stalled_seconds,
        handshake_seconds=settings.handshake_seconds,
        connection_idle_seconds=settings.connection_idle_seconds,
        max_connections=settings.max_connections,
        max_peer_connections=settings.max_peer_connections,
        max_resets_per_second=settings.max_resets_per_second,
        max_connection_calls=settings.max_connection_calls,
    )


def make_queue(settings: Settings, metrics: Metrics, name: str, version: int, run: ModelRunner) -> BatchQueue:
    """Makes the queue of a version. Raises UnpaddableError if the settings require padding and it can't be padded."""
    if settings.pads(name):
        run.pad_sequences()
    queue = BatchQueue(
        f"model '{name}' version {version}",
        run,
        max_batch_rows=settings.max_batch_rows,
        max_queue_rows=settings.max_queue_rows,
        observer=metrics.batches(name, version),
    )
    metrics.watch_queue(name, version, lambda: queue.queued_rows)
    return queue


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
