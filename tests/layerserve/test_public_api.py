from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import layerserve
import pytest
from layerserve import AsyncClient, AsyncTrainingRun, Client, TrainingRun, errors
from layerserve.slice_table import SLICES

FOLDER = Path(layerserve.__file__).parent

HEAVY = [
    "torch",
    "h5py",
    "typer",
    "rich",
    "layerserve_server",
    "layergraph",
    "layerserve_zoo",
    "keras",
    "pydantic",
    "google.rpc",
]


@pytest.mark.parametrize("package", [layerserve, *(import_module(f"layerserve.{name}") for name in SLICES)])
def test_public_names_are_found_when_they_are_used(package):
    """The names are those of `__init__.pyi`, which is read at run time, too."""
    assert package.__all__
    assert all(hasattr(package, name) for name in package.__all__)
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match=f"No {package.__name__} attribute client_"):
        _ = package.client_


def test_every_error_is_public():
    named = {n for n, c in vars(errors).items() if isinstance(c, type) and issubclass(c, errors.LayerserveError)}
    assert named <= set(layerserve.__all__)


def imported(statement, names):
    """Returns which of these modules a new process has imported after a statement."""
    program = f"{statement}\nimport sys; print(*[name for name in {names} if name in sys.modules])"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize("module", ["*", "AsyncClient", "Scorer", "testing", "cli", "values"])
def test_importing_the_client_imports_nothing_heavy(module):
    assert imported(f"from layerserve import {module}", HEAVY) == []


@pytest.mark.parametrize("module", ["layerserve", "layerserve.cli"])
def test_what_uses_no_client_does_not_import_it(module):
    assert imported(f"import {module}", ["grpc", "numpy", "google.protobuf", "layerserve.client"]) == []
    assert imported("from layerserve import Client", ["grpc", "torch"]) == ["grpc"]


#: Modules of the asynchronous client, and their blocking twins.
SOURCES = {FOLDER / "async_client.py": FOLDER / "client.py"} | {
    path: path.with_name("blocking.py") for path in sorted(FOLDER.glob("*/api.py"))
}


def classes() -> Iterator[tuple[type, type]]:
    """The classes of both clients."""
    for source, twin in SOURCES.items():
        here, there = (
            import_module(".".join(path.relative_to(FOLDER.parent).with_suffix("").parts)) for path in (twin, source)
        )
        for name, kind in inspect.getmembers(there, inspect.isclass):
            if kind.__module__ == there.__name__:
                yield getattr(here, name.removeprefix("Async")), kind


@pytest.mark.parametrize(("blocking", "asynchronous"), [*classes()])
def test_both_clients_have_the_same_methods_signatures_and_texts(blocking, asynchronous):
    names = {name for name in vars(blocking) if not name.startswith("_")}
    assert names == {name for name in vars(asynchronous) if not name.startswith("_")}
    for name in sorted(names | {"__init__"}):
        ours, theirs = getattr(blocking, name), getattr(asynchronous, name)
        assert parameters(ours) == parameters(theirs), name
        assert result(ours) == result(theirs), name
        assert ours.__doc__ == blocking_text(theirs.__doc__), name
        if name != "__init__":
            assert ours.__doc__, name
            # A session connects when its block begins, a sequence with its first step.
            waits = inspect.iscoroutinefunction(theirs) or inspect.isasyncgenfunction(theirs)
            assert waits or name in ("session", "sequence"), name
    assert hasattr(blocking, "__iter__") == hasattr(asynchronous, "__aiter__") == (blocking is TrainingRun)


@pytest.mark.parametrize(("source", "twin"), [*SOURCES.items()], ids=lambda path: path.parent.name)
def test_both_clients_do_the_same(source, twin):
    """Their methods have the same statements, so that what one of them is tested for holds for the other."""
    found, blocking = (methods_of(path.read_text()) for path in (source, twin))
    assert found == blocking
    assert found


def methods_of(source: str) -> dict[str, str]:
    """The statements of each method, as the blocking client has them."""
    plain = re.sub(r"\b(await|async) |Async", "", re.sub(r"__a(enter|exit|iter|next)__", r"__\1__", source))
    return {
        f"{kind.name}.{method.name}": "\n".join(map(ast.unparse, method.body[ast.get_docstring(method) is not None :]))
        for kind in ast.parse(plain).body
        if isinstance(kind, ast.ClassDef)
        for method in kind.body
        if isinstance(method, ast.FunctionDef)
    }


@pytest.mark.parametrize("name", SLICES)
def test_both_clients_have_the_slices(name):
    with Client("localhost:1") as client:
        assert type(getattr(client, name)).__module__ == f"layerserve.{name}.blocking"
    assert type(getattr(AsyncClient("localhost:1"), name)).__module__ == f"layerserve.{name}.api"


def test_runs_of_both_clients_say_the_same_of_their_events():
    assert TrainingRun.__iter__.__doc__ == AsyncTrainingRun.__aiter__.__doc__ is not None


def parameters(function) -> list[inspect.Parameter]:
    found = inspect.signature(function).parameters.values()
    return [p.replace(annotation=str(p.annotation).replace("Async", "")) for p in found]


def blocking_text(text: str | None) -> str | None:
    """A docstring of the asynchronous client without what only asyncio needs."""
    return text and re.sub(r"\bawait |\basync (?=for|with)|\bAsync(?=Client)", "", text)


def result(function) -> str:
    return str(inspect.signature(function).return_annotation).replace("Async", "")


def test_the_package_is_typed():
    from importlib.resources import files

    assert files("layerserve").joinpath("py.typed").is_file()
