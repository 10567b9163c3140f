"""The commands of the client, as a typer application."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from layerserve.cli import catalogue, changes, checkpoints, datasets, extensions, options, run_changes, training
from layerserve.cli.codegen import codegen
from layerserve.cli.graph import graph
from layerserve.cli.plot import plot
from layerserve.cli.predict import predict
from layerserve.cli.run_files import files
from layerserve.cli.sweeps import sweep_app
from layerserve.cli.top import top
from layerserve.errors import LayerserveError
from layerserve.model_changes import VersionWarning
from layerserve.tokens import PlaintextTokenWarning


def run(argv: Sequence[str]) -> int:
    """Runs a command line. Returns the exit status. Errors and warnings are printed as a line to standard error."""
    try:
        with warnings.catch_warnings():
            for kind in (PlaintextTokenWarning, VersionWarning):
                warnings.simplefilter("always", kind)
            warnings.showwarning = _warn
            application()(args=list(argv), prog_name="layerserve")
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except LayerserveError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    return 0


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    print(f"layerserve: warning: {' '.join(str(message).split())}", file=sys.stderr)


def _fail(text: str) -> int:
    print(f"layerserve: {' '.join(text.split())}", file=sys.stderr)
    return 1


class Commands(TyperGroup):
    """The commands. An option of the connection after a command's name is refused with the place where it belongs."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            # By name, as releases of typer have classes of their own.
            if type(error).__name__ == "NoSuchOption":
                name: str = vars(error)["option_name"]
                if any(name in parameter.opts for parameter in self.params):
                    vars(error).update(
                        message=f"{name} precedes the command's name: layerserve {name} ... {ctx.invoked_subcommand}",
                        possibilities=None,
                    )
            raise


def application() -> typer.Typer:
    """Makes the application, with the client's commands and those of other packages."""
    app = typer.Typer(
        cls=Commands,
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(options.connection_options)
    app.command("models")(catalogue.models)
    app.command("wait")(catalogue.wait)
    app.command("predict")(predict)
    app.command("shapes")(catalogue.shapes)
    app.command("graph")(graph)
    app.command("download")(catalogue.download)
    app.command("codegen")(codegen)
    app.command("upload")(changes.upload)
    app.command("load")(changes.load)
    app.command("unload")(changes.unload)
    app.command("rollback")(changes.rollback)
    app.command("pin")(changes.pin)
    app.command("unpin")(changes.unpin)
    app.command("label")(changes.label)
    app.command("canary")(changes.canary)
    app.command("remove")(changes.remove)
    app.command("train")(training.train)
    app.command("runs")(training.runs)
    app.command("plot")(plot)
    app.command("top")(top)
    app.command("watch")(training.watch)
    app.command("cancel")(training.cancel)
    app.command("resume")(run_changes.resume)
    app.command("pause")(run_changes.pause)
    app.command("stop")(run_changes.stop)
    app.command("update")(run_changes.update)
    app.command("publish")(run_changes.publish)
    app.command("delete")(training.delete)
    app.command("files")(files)
    app.command("evaluate")(training.evaluate)
    app.add_typer(datasets.commands(), name="dataset")
    app.add_typer(checkpoints.app, name="checkpoint")
    app.add_typer(sweep_app, name="sweep")
    for name in extensions.names():
        app.command(
            name,
            help=extensions.HELP.get(name, ""),
            add_help_option=False,
            context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
        )(_extension(name))
    return app


def _extension(name: str) -> Callable[[typer.Context], None]:
    def call(context: typer.Context) -> None:
        raise typer.Exit(extensions.run(name, context.args))

    return call
