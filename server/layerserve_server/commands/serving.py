"""The command `layerserve serve`."""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from importlib.metadata import version as package_version
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from layerserve.cli import USAGE

from layerserve_server.commands.settings_reader import SettingsError, in_force, json_logs, read_settings
from layerserve_server.observability import logs
from layerserve_server.observability.output import STDERR, STDOUT, Rewriter
from layerserve_server.settings.extras import missing_extras
from layerserve_server.settings.settings import Settings, is_loopback, missing_paths
from layerserve_server.transport import ports

if TYPE_CHECKING:
    from layerserve_server.app import App
    from layerserve_server.repository.entry import Description

logger = logging.getLogger(__name__)

#: Time between two checks whether the server has stopped, in seconds.
CHECK_SECONDS = 0.1
#: Time between two checks whether the server has started, in seconds.
START_CHECK_SECONDS = 0.02
#: Time for a server that receives a signal during startup to complete the startup, in seconds.
LAST_MOMENT_SECONDS = 1.0


def serve(argv: Sequence[str]) -> int:
    """Serves until SIGTERM or SIGINT. Returns the exit status.

    On SIGTERM the server drains: health is NOT_SERVING, and calls are still accepted (see `_drain`). Then, or
    immediately on SIGINT, open calls have `grace_seconds` to finish. A second signal ends them immediately. During
    startup the first signal ends the process.
    """
    rewriter = Rewriter() if json_logs(argv, os.environ) else None
    if rewriter is not None:
        logs.set_up("info", "json", rewriter.stream)
        logs.take_all(rewriter.stream)
        # Standard output later, since help and settings are printed there, which aren't logs.
        rewriter.take(STDERR)
    try:
        settings = read_settings(argv)
        missing = missing_extras(settings)
        if settings.check_config and (wrong := missing_paths(settings) + missing or _invalid_files(settings)):
            raise SettingsError("\n".join(wrong))
    except SettingsError as error:
        return _refuse(str(error), rewriter)
    if settings.check_config:
        print(in_force(settings))
        return 0
    logs.set_up(settings.log_level, settings.log_format, rewriter.stream if rewriter else None)
    if rewriter is not None:
        rewriter.take(STDOUT)
    if wrong := missing or taken_ports(settings):
        return _refuse("\n".join(f"layerserve serve: {line}" for line in wrong), rewriter)
    # On a cold machine, importing torch takes several seconds more.
    logger.info("starting with %s", settings.path)
    signals = Signals()
    try:
        app, first = _started_or_signalled(signals, settings)
    except (ValueError, OSError) as error:
        return _refuse(f"layerserve serve: {error}", rewriter)
    if app is None:
        logger.info("stopping: the server had not started yet")
        leave()
    if rewriter is None:
        print(welcome(app), file=sys.stderr, flush=True)
    again = None
    if (first or signals.wait()) == signal.SIGTERM:
        again = _drain(app, signals)
    ending = threading.Thread(target=app.stop, args=(settings.grace_seconds,), daemon=True)
    ending.start()
    while ending.is_alive() and not again:
        again = signals.wait(CHECK_SECONDS)
    if again:
        app.stop(0.0)
    leave()


def leave() -> NoReturn:
    """Ends the process at once: a thread that loads a model can't be stopped, and Python would wait for it."""
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0)


def taken_ports(settings: Settings) -> list[str]:
    """Returns an error line per port in the settings on which the server can't listen, before anything is loaded."""
    lines = []
    for name in ("grpc_port", "http_port", "metrics_port"):
        if (port := getattr(settings, name)) <= 0:
            continue
        try:
            ports.claim(settings.host, port)
        except ports.TakenPortError as error:
            serving = ports.serving(settings.host, port) if name == "grpc_port" else None
            step = {
                True: ", a server that serves; stop it first",
                False: ", a server that starts or stops; try again when it has ended",
                None: "; stop it first",
            }[serving]
            lines.append(f"{error}{step}, or set another --{name.replace('_', '-')}")
        except OSError as error:
            lines.append(str(error))
    return lines


def _drain(app: App, signals: Signals) -> signal.Signals | None:
    """Drains until clients know that the server stops. Returns the signal that cut it short, if any.

    Balancers and probes ask every few seconds, and until then send new clients, so that open connections say little.
    Only this machine's processes reach the loopback: one that isn't connected needs no time to leave, and one that
    comes later finds the port closed. A time in the settings is kept in any case: a proxy may be in front.
    """
    settings = app.settings
    app.drain()
    end = time.monotonic() + settings.longest_drain_seconds
    follows = settings.drain_seconds is None and is_loopback(settings.host) and not settings.host.startswith("unix:")
    while (left := end - time.monotonic()) > 0:
        if follows and not ports.connected({app.grpc_port, app.http_port}):
            break
        if (again := signals.wait(min(left, CHECK_SECONDS) if follows else left)) is not None:
            return again
    return None


def _invalid_files(settings: Settings) -> list[str]:
    # Imports torch, as `started` does.
    from layerserve_server.extensions.installed import model_settings
    from layerserve_server.repository.model_settings import invalid_files

    return invalid_files(Path(settings.path), model_settings())


def _refuse(reason: str, rewriter: Rewriter | None) -> int:
    """Prints or logs why the server doesn't start, line by line. Returns the exit status."""
    for line in reason.splitlines():
        if rewriter is None:
            print(line, file=sys.stderr)
        else:
            logger.error(line)
    return USAGE


def _started_or_signalled(signals: Signals, settings: Settings) -> tuple[App | None, signal.Signals | None]:
    """Starts a server. Returns it, and the signal received during startup, if any; no server if startup was cut short.

    Raises as `started` does.
    """
    starting: Future[App] = Future()

    def start() -> None:
        try:
            starting.set_result(started(settings))
        except BaseException as error:
            starting.set_exception(error)

    threading.Thread(target=start, name="start", daemon=True).start()
    first = None
    while first is None and not starting.done():
        first = signals.wait(START_CHECK_SECONDS)
    if first is None:
        return starting.result(), None
    try:
        # Clients may have seen it serving already.
        return starting.result(LAST_MOMENT_SECONDS), first
    except FutureTimeoutError:
        return None, first


def started(settings: Settings) -> App:
    """Returns a started server. Raises ValueError if the path can't be served, OSError if a port is taken."""
    # Imports torch, which takes a second or two; help and errors in settings don't need it.
    from layerserve_server.app import App

    app = App(settings)
    try:
        app.start()
    except BaseException:
        app.stop()
        raise
    return app


class Signals:
    """Queue of received SIGTERM and SIGINT signals. The third one ends the process immediately."""

    def __init__(self) -> None:
        # A pipe, since a handler may interrupt code that holds the lock of a threading.Event. Python itself writes to
        # it, since a handler doesn't run while this thread waits or is about to.
        self._reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        self._count = 0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._take)

    def wait(self, seconds: float | None = None) -> signal.Signals | None:
        """Waits for the next signal and returns it; None after a timeout of `seconds`."""
        readable, _, _ = select.select([self._reader], [], [], seconds)
        return signal.Signals(os.read(self._reader, 1)[0]) if readable else None

    def _take(self, number: int, frame: FrameType | None) -> None:
        self._count += 1
        if self._count > 2:
            os._exit(1)


def welcome(app: App) -> str:
    """Returns the startup message: the models and the ports."""
    settings = app.settings
    versions = app.repository.catalogue.describe()
    shown = [one for one in versions if one.default or one.reason]
    models = len({one.name for one in versions})
    lines = [f"layerserve {package_version('layerserve')}: {models} model{'s' * (models != 1)} in {settings.path}"]
    lines += [_line(one) for one in shown]
    if not versions:
        lines.append("  no models yet; a NAME/1/model.keras or NAME.keras that is added is served automatically")
    ports = f"gRPC on {settings.host}:{app.grpc_port}"
    if app.http_port >= 0:
        scheme = "http" if settings.tls_certificate is None else "https"
        ports += f", HTTP on {scheme}://{settings.host}:{app.http_port}"
    if app.metrics_port >= 0:
        ports += f", metrics on http://{settings.host}:{app.metrics_port}/metrics"
    return "\n".join([*lines, ports + "; Ctrl-C stops"])


def _line(one: Description) -> str:
    return f"  {one.name:20} version {one.version:<6} {one.state.value}" + (f": {one.reason}" if one.reason else "")
