"""Signatures and docstrings of functions with `**options`, for `help`, `inspect.signature` and completion."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from layerserve.training.options.option import Option

F = TypeVar("F", bound=Callable[..., Any])


def takes(options: Sequence[Option]) -> Callable[[F], F]:
    """Decorator that adds options to a function's signature as keyword parameters, and lists them in its docstring.

    They stand before `version`, behind what is declared before it.
    """

    def shown(function: F) -> F:
        expand(function, [_parameter(option) for option in options], before="version")
        if function.__doc__ is not None:
            text = inspect.cleandoc(function.__doc__)
            function.__doc__ = "\n".join([text, "", "Options:", *map(_line, options), ""])
        return function

    return shown


def expand(
    function: Callable[..., Any], parameters: Iterable[inspect.Parameter], *, before: str, eval_str: bool = False
) -> None:
    """Replaces `**options` in a function's signature by keyword parameters, before the parameter of this name.

    With `eval_str`, annotations that are strings are evaluated now, for readers that don't evaluate them.
    """
    signature = inspect.signature(function, eval_str=eval_str)
    given = [one for one in signature.parameters.values() if one.kind is not one.VAR_KEYWORD]
    place = [one.name for one in given].index(before)
    rest = [one.replace(kind=one.KEYWORD_ONLY) for one in given[place:]]
    shown = signature.replace(parameters=[*given[:place], *parameters, *rest])
    result = {} if shown.return_annotation is shown.empty else {"return": shown.return_annotation}
    function.__annotations__ = {
        name: one.annotation for name, one in shown.parameters.items() if one.annotation is not one.empty
    } | result
    function.__signature__ = shown  # type: ignore[attr-defined]


def _parameter(option: Option) -> inspect.Parameter:
    return inspect.Parameter(
        option.name, inspect.Parameter.KEYWORD_ONLY, default=option.default, annotation=option.type
    )


def _line(option: Option) -> str:
    expects = option.kind.expects[:1].upper() + option.kind.expects[1:]
    if option.unit and option.unit not in expects:
        expects += f" ({option.unit})"
    default = option.otherwise or repr(option.default)
    text = f"{option.name}: {option.help} {expects}. Default: {default}."
    return textwrap.fill(text, 110, initial_indent=" " * 4, subsequent_indent=" " * 8, break_on_hyphens=False)
