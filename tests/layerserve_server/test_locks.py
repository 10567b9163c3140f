"""What one method of an object changes under the object's lock, all methods do: else two threads could at once."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import layerserve_server
import pytest

FOLDER = Path(layerserve_server.__file__).parent
#: Methods of lists, sets, dicts and deques that change them.
CHANGES = {
    *("add", "append", "appendleft", "clear", "discard", "extend", "insert", "pop", "popitem", "popleft", "remove"),
    *("setdefault", "update"),
}
#: What only one thread changes, or what may be changed at once, by class.
FREE = {
    "Background": {"_lost", "_waiting"},  # a deque, and a count that needn't be exact
    "Catalogue": {"chosen"},  # `choose_anew`, which the other parts of the repository call with the lock held
    "BatchQueue": {"_thread_seconds", "_waits"},  # the leader's
    "DatasetStore": {"_parts"},  # `_changing` has the lock
    "PredictionStream": {"_ready"},  # a deque
}


class Method(ast.NodeVisitor):
    """The attributes of `self` that a method changes, and its methods that it calls; each under a lock or not."""

    def __init__(self, method: ast.FunctionDef | ast.AsyncFunctionDef, locks: set[str]) -> None:
        self.changed: list[tuple[str, bool]] = []
        self.called: list[tuple[str, bool]] = []
        self._locks, self._held = locks, False
        for statement in method.body:
            self.visit(statement)

    def visit_With(self, node: ast.With) -> None:
        before = self._held
        self._held = before or any(_held_by(item.context_expr) in self._locks for item in node.items)
        self.generic_visit(node)
        self._held = before

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Attribute):
            if own := _own(node.func):
                self.called.append((own, self._held))
            elif node.func.attr in CHANGES:
                self._change(node.func.value)
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if not isinstance(node.ctx, ast.Load):
            self._change(node)
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if not isinstance(node.ctx, ast.Load):
            self._change(node.value)
        self.generic_visit(node)

    def _change(self, node: ast.expr) -> None:
        while isinstance(node, ast.Subscript):
            node = node.value
        if own := _own(node):
            self.changed.append((own, self._held))


def _own(node: ast.expr) -> str:
    """The name of an attribute of `self`, or ""."""
    ours = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    return node.attr if ours else ""


def _held_by(node: ast.expr) -> str:
    """The name of what a `with` statement holds: an attribute of `self`, or the lock of one."""
    if isinstance(node, ast.Attribute) and node.attr == "lock" and (own := _own(node.value)):
        return f"{own}.lock"
    return _own(node)


def _locks(kind: ast.ClassDef) -> set[str]:
    """The attributes of a class that `with` statements hold."""
    items = [item.context_expr for node in ast.walk(kind) if isinstance(node, ast.With) for item in node.items]
    return {lock for item in items if (lock := _held_by(item))}


def changed_both_ways(source: str) -> dict[str, set[str]]:
    """For each class with locks, the attributes that are changed with a lock and, once it is made, also without."""
    found = {}
    for kind in ast.walk(ast.parse(source)):
        if not isinstance(kind, ast.ClassDef) or not (locks := _locks(kind)):
            continue
        functions = [each for each in kind.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
        methods = {each.name: Method(each, locks) for each in functions}
        making = {called for called, _ in methods.pop("__init__").called} if "__init__" in methods else set()
        calls = [(name, *call) for name, method in methods.items() for call in method.called]
        for name in making - {called for _, called, _ in calls}:
            methods.pop(name, None)
        # Methods that are called under a lock only.
        inner = {called for _, called, _ in calls if called.startswith("_")}
        while outer := {called for name, called, held in calls if called in inner and not held and name not in inner}:
            inner -= outer
        under = {called for name, called, held in calls if held or name in inner}
        ways = defaultdict(set)
        for name, method in methods.items():
            for attribute, held in method.changed:
                ways[attribute] |= {held or name in inner, held or name in under}
        found[kind.name] = {attribute for attribute, one in ways.items() if len(one) > 1}
    return found


SOURCES = {file: file.read_text() for file in sorted(FOLDER.rglob("*.py"))}
FOUND = {file: changed_both_ways(source) for file, source in SOURCES.items() if "with self." in source}


@pytest.mark.parametrize("file", [file for file in FOUND if FOUND[file]], ids=lambda file: file.stem)
def test_what_is_changed_under_a_lock_always_is(file):
    for kind, attributes in FOUND[file].items():
        assert attributes == FREE.get(kind, set()), kind


def test_a_change_without_the_lock_is_found():
    source = """
class Counter:
    def __init__(self):
        self._lock = threading.Lock()
        self.count, self.names = 0, {}

    def add(self, name):
        with self._lock:
            self._note(name)
            self.count += 1

    def _note(self, name):
        self.names[name] = True

    def reset(self):
        self.names.clear()
"""
    assert changed_both_ways(source) == {"Counter": {"names"}}
    assert changed_both_ways(source.replace("self.names.clear()", "self._note('')")) == {"Counter": {"names"}}
    assert changed_both_ways(source.replace("self.names.clear()", "pass")) == {"Counter": set()}
    assert changed_both_ways(source.replace("with self._lock", "if True")) == {}
