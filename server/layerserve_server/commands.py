"""The commands that need the server's packages: `layerserve serve` and `layerserve inspect`."""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from importlib.metadata import version as package_version
from pathlib import Path
from types import FrameType

from layerserve.cli.parser import Parser, with_default

from layerserve_server.app import App
from layerserve_server.observability import logs
from layerserve_server.observability.output import STDERR, STDOUT, Rewriter
from layerserve_server.repository.entry import Description
from layerserve_server.settings import Settings, SettingsError, in_force, json_logs, missing_paths, read_settings

logger = logging.getLogger(__name__)

#: Exit status for settings and arguments that are wrong, as shells and argparse have it.
USAGE = 2
#: Time between two looks whether the server has stopped, in seconds.
LOOK_SECONDS = 0.1
#: The same of whether it has started.
START_LOOK_SECONDS = 0.02
#: Time that a server which is signalled while it starts has to finish that, in seconds.
LAST_MOMENT_SECONDS = 1.0


def serve(argv: Sequence[str]) -> int:
    """Serves until SIGTERM or SIGINT; gives the exit status.

    The first signal drains: health says NOT_SERVING, calls are still taken for `drain_seconds` (not after SIGINT, as
    then a person waits), then calls under way get `grace_seconds`. A second signal ends them at once. While the server
    starts, the first signal ends the process.
    """
    rewriter = Rewriter() if json_logs(argv, os.environ) else None
    if rewriter is not None:
        logs.set_up("info", "json", rewriter.stream)
        logs.take_all(rewriter.stream)
        # Not standard output yet: help and settings are printed there, which are no logs.
        rewriter.take(STDERR)
    try:
        settings = read_settings(argv)
        if settings.check_config and (missing := missing_paths(settings)):
            raise SettingsError("\n".join(missing))
    except SettingsError as error:
        return _refuse(str(error), rewriter)
    if settings.check_config:
        print(in_force(settings))
        return 0
    logs.set_up(settings.log_level, settings.log_format, rewriter.stream if rewriter else None)
    if rewriter is not None:
        rewriter.take(STDOUT)
    signals = Signals()
    try:
        app, first = _started_or_signalled(signals, settings)
    except (ValueError, OSError) as error:
        return _refuse(f"layerserve serve: {error}", rewriter)
    if app is None:
        logger.info("stopping: the server had not started yet")
        logging.shutdown()
        # Not `return`: the thread that reads models can't be stopped, and Python would end under it.
        os._exit(0)
    if rewriter is None:
        print(welcome(app), file=sys.stderr, flush=True)
    again = None
    if (first or signals.wait()) == signal.SIGTERM:
        app.drain()
        again = signals.wait(settings.drain_seconds)
    ending = threading.Thread(target=app.stop, args=(settings.grace_seconds,), daemon=True)
    ending.start()
    while ending.is_alive() and not again:
        again = signals.wait(LOOK_SECONDS)
    if again:
        app.stop(0.0)
    return 0


def _refuse(reason: str, rewriter: Rewriter | None) -> int:
    """Says why there is no server, in as many lines as the reason has; gives the exit status."""
    for line in reason.splitlines():
        if rewriter is None:
            print(line, file=sys.stderr)
        else:
            logger.error(line)
    return USAGE


def _started_or_signalled(signals: Signals, settings: Settings) -> tuple[App | None, signal.Signals | None]:
    """A server that serves, and the signal that came while it started; no server if it is still reading models then.

    Raises what `started` raises.
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
        first = signals.wait(START_LOOK_SECONDS)
    if first is None:
        return starting.result(), None
    try:
        # Callers may have seen it serve already.
        return starting.result(LAST_MOMENT_SECONDS), first
    except FutureTimeoutError:
        return None, first


def started(settings: Settings) -> App:
    """A server that serves. Raises ValueError for a path that can't be served, OSError for a port that is taken."""
    app = App(settings)
    try:
        app.start()
    except BaseException:
        app.stop()
        raise
    return app


class Signals:
    """SIGTERM and SIGINT as they come. The third one ends the process, whatever it does."""

    def __init__(self) -> None:
        # A pipe, because a handler may interrupt whoever holds the lock of a threading.Event; and Python writes into
        # it itself, because a handler doesn't run while this thread waits, or is about to.
        self._reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        self._count = 0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._take)

    def wait(self, seconds: float | None = None) -> signal.Signals | None:
        """Waits for the next signal, and gives it; None where none came in time."""
        readable, _, _ = select.select([self._reader], [], [], seconds)
        return signal.Signals(os.read(self._reader, 1)[0]) if readable else None

    def _take(self, number: int, frame: FrameType | None) -> None:
        self._count += 1
        if self._count > 2:
            os._exit(1)


def welcome(app: App) -> str:
    """What a person wants to see when the server is up: the models, and where to find them."""
    settings = app.settings
    versions = app.repository.describe()
    shown = [one for one in versions if one.default or one.reason]
    models = len({one.name for one in versions})
    lines = [f"layerserve {package_version('layerserve')}: {models} model{'s' * (models != 1)} in {settings.path}"]
    lines += [_line(one) for one in shown]
    if not versions:
        lines.append("  no models yet; a NAME/1/model.keras or NAME.keras that is added is served automatically")
    ports = f"gRPC on {settings.host}:{app.grpc_port}"
    if app.metrics_port >= 0:
        ports += f", metrics on http://{settings.host}:{app.metrics_port}/metrics"
    return "\n".join([*lines, ports + "; Ctrl-C stops"])


def _line(one: Description) -> str:
    return f"  {one.name:20} version {one.version:<6} {one.state.value}" + (f": {one.reason}" if one.reason else "")


def inspect(argv: Sequence[str]) -> int:
    """Shows what a model file holds, without a server: layers, nodes, parameters, or all that is unsupported."""
    parser = Parser(
        prog="layerserve inspect",
        description="Show the layers, nodes and parameters of a model file, or everything in it that is unsupported. "
        "Needs no server.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="A .keras or .h5 file, or a version folder.")
    parser.add_argument("--json", action="store_true", help="Print JSON instead of a table.")
    parser.add_argument(
        "--make-golden",
        action="store_true",
        help="Write golden.npz next to the file, with random inputs and the model's outputs for them. A server then "
        "serves the file only if it reproduces these outputs.",
    )
    parser.add_argument(
        "--engines", action="store_true", help="Time the installed engines on the model and print the results."
    )
    parser.add_argument(
        "--plugins",
        default="",
        metavar="TEXT",
        help=with_default("Comma-separated Python modules that define custom layers.", "none"),
    )
    arguments = parser.parse_args(list(argv))

    from layergraph.errors import LayerGraphError, ModelFileError

    from layerserve_server import inspection
    from layerserve_server.inference import runner

    try:
        runner.load_plugins(arguments.plugins)
        if arguments.make_golden:
            print(f"wrote {inspection.make_golden(arguments.file)}", file=sys.stderr)
        report = inspection.inspect(arguments.file, engines=arguments.engines)
    except (OSError, LayerGraphError) as error:
        problems = list(error.problems) if isinstance(error, ModelFileError) else [str(error)]
        if arguments.json:
            print(json.dumps({"file": str(arguments.file), "problems": problems}, indent=1))
        else:
            print(f"{arguments.file} can't be served:", file=sys.stderr)
            print("\n".join(f"  {problem}" for problem in problems), file=sys.stderr)
        return 1
    print(json.dumps(report, indent=1) if arguments.json else inspection.text(report))
    return 0
