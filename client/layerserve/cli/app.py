"""The commands of the client, as a typer application."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import typer

from layerserve.calls.tokens import PlaintextTokenWarning
from layerserve.cli import catalogue, changes, extensions, options, runs, training
from layerserve.cli.codegen import codegen
from layerserve.cli.explain import explain
from layerserve.cli.graph import graph
from layerserve.cli.groups import HELP_OPTIONS, Group
from layerserve.cli.predict import predict
from layerserve.cli.push import push
from layerserve.cli.score import score
from layerserve.cli.slice_commands import slice_commands
from layerserve.cli.status import status
from layerserve.cli.top import top
from layerserve.cli.wrong_lines import explain as explain_error
from layerserve.errors import LayerserveError
from layerserve.models.changes import VersionWarning


def run(argv: Sequence[str]) -> int:
    """Runs a command line. Returns the exit status. Errors and warnings are printed as a line to standard error."""
    try:
        with warnings.catch_warnings():
            for kind in (PlaintextTokenWarning, VersionWarning):
                warnings.simplefilter("always", kind)
            warnings.showwarning = _warn
            _command(extensions.names())(args=list(argv), prog_name="layerserve")
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except LayerserveError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    return 0


@cache
def _command(others: tuple[str, ...]) -> Any:
    """Makes the command, with those of other packages by name. Once, as typer takes long for flags of many options."""
    return typer.main.get_command(application(others))


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    print(f"layerserve: warning: {' '.join(str(message).split())}", file=sys.stderr)


def _fail(text: str) -> int:
    print(f"layerserve: {' '.join(text.split())}", file=sys.stderr)
    return 1


#: The commands by what people want to do, in the order of the help. None: another of layerserve's packages has it.
PANELS: dict[str, Mapping[str, Callable[..., Any] | typer.Typer | None]] = {
    "Serve": {
        "serve": None,
        "inspect": None,
        "convert": None,
        "token": None,
        "zoo": None,
    },
    "Predict": {
        "predict": predict,
        "score": score,
        "explain": explain,
        "shapes": catalogue.shapes,
        "graph": graph,
        "codegen": codegen,
    },
    "Versions": {
        "models": catalogue.models,
        "upload": changes.upload,
        "download": catalogue.download,
        "push": push,
        "rollback": changes.rollback,
        "pin": changes.pin,
        "unpin": changes.unpin,
        "canary": changes.canary,
        "label": changes.label,
        "load": changes.load,
        "unload": changes.unload,
        "remove": changes.remove,
    },
    "Train": {
        "train": training.train,
        "evaluate": training.evaluate,
        "run": runs.commands(),
        **{name: group for added in slice_commands() for name, group in added.groups.items()},
    },
    "Watch": {
        "status": status,
        "wait": catalogue.wait,
        "top": top,
    },
}


class Commands(Group):
    """The commands. Errors in a command line say what is expected, and where an option belongs."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            explain_error(error, self)
            raise

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            explain_error(error, self, ctx.invoked_subcommand)
            raise

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Returns a command. The error for an unknown one names the groups that have it."""
        try:
            return super().resolve_command(ctx, args)
        except Exception as error:
            places = [name for name, one in self.commands.items() if args[0] in getattr(one, "commands", ())]
            if places and "message" in vars(error):
                meant = " or ".join(f"layerserve {name} {args[0]}" for name in places)
                vars(error).update(message=f"No such command '{args[0]}'; did you mean {meant}?")
            raise

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes the commands, and below them the options, which few callers need."""
        width = max(map(len, self.list_commands(ctx)))
        for title, panel in PANELS.items():
            self.write_section(ctx, formatter, title, panel, width)
        known = {name for panel in PANELS.values() for name in panel}
        others = [name for name in self.list_commands(ctx) if name not in known]
        self.write_section(ctx, formatter, "Of other packages", others, width)
        super().format_options(ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Writes nothing: the commands are above the options."""


def application(others: Sequence[str]) -> typer.Typer:
    """Makes the application, with the client's commands and those of other packages."""
    app = typer.Typer(
        cls=Commands,
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings=HELP_OPTIONS.copy(),
    )
    app.callback()(options.connection_options)
    for panel in PANELS.values():
        for name, command in panel.items():
            if isinstance(command, typer.Typer):
                app.add_typer(command, name=name)
            elif command is not None:
                app.command(name)(command)
    for name in others:
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
