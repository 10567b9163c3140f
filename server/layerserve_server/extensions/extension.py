"""The seam: what an extension adds to the server, and what it may use of it.

An extension is a folder with its whole slice. The core imports none, and works without any of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    # Help and errors in settings need none of these.
    from prometheus_client import CollectorRegistry

    from layerserve_server.access.rights import Right
    from layerserve_server.access.verifiers import VerifierKind
    from layerserve_server.datasets.store import DatasetStore
    from layerserve_server.jobs.jobs import Jobs
    from layerserve_server.observability.families import Families
    from layerserve_server.observability.metrics import Metrics
    from layerserve_server.repository.management import Manager
    from layerserve_server.repository.model_settings import ModelSettings
    from layerserve_server.repository.repository import Repository
    from layerserve_server.repository.uploads import Uploads
    from layerserve_server.repository.version_reader import MakeDecoders, MakeParts
    from layerserve_server.repository.version_source import VersionSource
    from layerserve_server.repository.writer import Writer
    from layerserve_server.services.open_inference.additions import Additions
    from layerserve_server.services.open_work import OpenWork
    from layerserve_server.services.prediction.predictor import Predictor
    from layerserve_server.services.prediction.request_taker import Forward
    from layerserve_server.services.rest.body_reader import BodyReader
    from layerserve_server.services.rest.openapi import Describe
    from layerserve_server.services.run_requests import RunDefaults
    from layerserve_server.services.server import ServerState
    from layerserve_server.settings.settings import Settings
    from layerserve_server.training.conversion import Converter
    from layerserve_server.training.process.run_process import MakeProcess
    from layerserve_server.training.run_kind import RunKind
    from layerserve_server.training.runs.registry import Runs
    from layerserve_server.training.runs.tracer import Tracer
    from layerserve_server.transport.call import Routes
    from layerserve_server.transport.http.exchange import HttpRoute, Plain
    from layerserve_server.transport.http.hosts import Hosts
    from layerserve_server.transport.probes import MetricPage
    from layerserve_server.transport.status import Words


class Service(Protocol):
    """Handlers of gRPC methods."""

    def routes(self) -> Routes:
        """Returns the handlers by full method name."""


@dataclass(frozen=True, kw_only=True)
class Process:
    """What every process that answers predictions has."""

    settings: Settings
    metrics: Metrics
    repository: Repository
    predictor: Predictor
    #: Work in child processes.
    jobs: Jobs
    #: Make decoders of inputs that requests may have as bytes, of each version that is read.
    make_decoders: list[MakeDecoders]
    #: Make parts of each version that is read, which live as long as it is in memory.
    make_parts: list[MakeParts]
    #: Has the main process answer a unary call (see `ForwardedRequests`); None in the main process.
    forward: Forward | None = None


@dataclass(frozen=True, kw_only=True)
class Core(Process):
    """What the main process has as well."""

    manager: Manager
    uploads: Uploads
    runs: Runs
    datasets: DatasetStore
    #: Work in progress, by model.
    work: OpenWork
    #: What each run has if its request doesn't say otherwise.
    defaults: RunDefaults
    #: Makes files of models, a few at a time.
    converter: Converter
    #: The metrics of all processes.
    registry: CollectorRegistry
    #: Version of the package.
    release: str
    #: What the server does now.
    state: Callable[[], ServerState]
    #: Names of all services of gRPC. Known when calls are answered.
    services: Callable[[], Sequence[str]]
    #: What the Open Inference Protocol tells besides.
    open_inference: Additions

    def ready(self) -> bool:
        """Whether clients should use this server."""
        return self.state() == "serving"


@dataclass(frozen=True, kw_only=True)
class Web:
    """What routes of HTTP may use."""

    #: Reads long bodies in another process.
    reader: BodyReader
    #: Names under which browsers reach the server.
    hosts: Hosts
    #: The actual port of gRPC.
    grpc_port: int


@dataclass(frozen=True, kw_only=True)
class Paths:
    """Paths of HTTP."""

    #: Each is answered by a method of any service, with its right.
    routes: Sequence[HttpRoute] = ()
    #: Replies that every caller may read, by path. They take precedence over those of the core.
    plain: Mapping[str, Plain] = field(default_factory=dict)


def _no_paths(_: Web) -> Paths:
    return Paths()


def _nothing() -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class Part:
    """What an extension adds to a process. All of it is optional."""

    services: Sequence[Service] = ()
    #: Makes the paths of HTTP, if there is a port for it.
    http: Callable[[Web], Paths] = _no_paths
    #: Describes the paths of a model for /openapi.json.
    openapi: Describe | None = None
    #: Further pages of metrics by path, on the metrics port.
    metric_pages: Mapping[str, MetricPage] = field(default_factory=dict)
    #: Called when models have been read, and in the main process runs, too.
    start: Callable[[], None] = _nothing
    #: Called at each look at the repository, to see what other servers on it have done.
    scan: Callable[[], None] = _nothing
    #: Called when calls are refused. Runs go on until then.
    stop: Callable[[], None] = _nothing
    #: Called after that, when this server's runs have ended or were interrupted.
    close: Callable[[], None] = _nothing


def _no_part(_: Any) -> Part:
    return Part()


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a process has versions from if PATH isn't a folder or file of this machine."""

    origin: VersionSource
    #: Writes versions that are published; None if they can't be.
    writer: Writer | None = None
    #: Called before the repository is read for the first time. Raises OSError if nothing can be served.
    open: Callable[[], None] = _nothing
    #: Called after that.
    start: Callable[[], None] = _nothing
    #: Returns the versions that are being fetched.
    arriving: Callable[[], Mapping[tuple[str, int], Future[None]]] = dict
    #: Called when calls have ended.
    stop: Callable[[], None] = _nothing


def _none(*_: Any) -> None:
    return None


def _no_kinds(_: Any) -> Sequence[RunKind]:
    return ()


@dataclass(frozen=True, kw_only=True)
class Extension:
    """A part of the server that can be taken away. All but the name is optional."""

    name: str
    #: The server's settings with its own: flags, variables and keys of the settings file. They begin a section.
    settings: type[Settings] | None = None
    #: Returns the settings of a model with its own: keys of a model's settings file. Imported later than the rest.
    model_settings: Callable[[], type[ModelSettings]] | None = None
    #: Rights by full method name and by path of `Part.metric_pages`. Methods in proto/ have theirs there.
    rights: Mapping[str, Right] = field(default_factory=dict)
    #: Errors in the words of a protocol whose clients compare them, by the name of its service.
    words: Mapping[str, Words] = field(default_factory=dict)
    #: Kinds of verifiers of tokens, each with a table of the tokens file.
    verifiers: Sequence[VerifierKind] = ()
    #: Modules of its jobs without torch, and readers of long bodies (see `BodyReader`): imported before a job begins.
    job_modules: Sequence[str] = ()
    #: Makes what reads PATH if `Settings.source_of` says that it does, with whether this process fetches or waits for
    #: another that does. Raises ValueError.
    source: Callable[[Settings, Metrics, bool], Source | None] = _none
    #: Makes what traces the calls and runs of a process; None if traces are off. It calls the argument with the number
    #: of traces that are lost. Raises ValueError.
    tracer: Callable[[Callable[[int], None]], Tracer | None] = _none
    #: Makes its metrics of every process, for their documentation.
    metrics: Callable[[Families], None] | None = None
    #: Makes its kinds of runs.
    run_kinds: Callable[[Settings], Sequence[RunKind]] = _no_kinds
    #: Makes the handles of processes of training runs; None if they are processes of this machine. Raises ValueError.
    run_processes: Callable[[Settings], MakeProcess | None] = _none
    #: Makes the part of every process that answers predictions, for methods that run models.
    serving: Callable[[Process], Part] = _no_part
    #: Makes the part of the main process.
    main: Callable[[Core], Part] = _no_part
