"""torch's shape functions in Python, without its compiler.

Those of elementwise operations import torch's compiler at their first call, only to exclude themselves from being
compiled: a second and 40 MB for each process, although nothing is compiled there.
"""

from __future__ import annotations

import sys
from typing import Any

import torch._compile

#: Name of the attribute in which torch keeps the excluded function, once it has one.
_EXCLUDED = "__dynamo_disable"
#: Functions that were marked here.
_marked: list[Any] = []


def leave_compiler_out() -> None:
    """Marks the functions as excluded already, unless the compiler is imported."""
    if "torch._dynamo" in sys.modules:
        return
    modules = [module for name, module in sys.modules.items() if name.startswith(("torch._refs", "torch._decomp"))]
    for function in [value for module in modules for value in vars(module).values()]:
        while (wrapped := _wrapped(function)) is not None:
            if function.__code__.co_filename == torch._compile.__file__ and not hasattr(wrapped, _EXCLUDED):
                setattr(wrapped, _EXCLUDED, wrapped)
                _marked.append(wrapped)
            function = wrapped


def _wrapped(function: Any) -> Any:
    """The function that a decorator of torch calls, which `__wrapped__` isn't always; None for others."""
    code = getattr(function, "__code__", None)
    if code is None or "fn" not in code.co_freevars:
        return None
    return function.__closure__[code.co_freevars.index("fn")].cell_contents


def let_compiler_in() -> None:
    """Takes the marks back, for the compiler to exclude the functions itself."""
    while _marked:
        delattr(_marked.pop(), _EXCLUDED)
