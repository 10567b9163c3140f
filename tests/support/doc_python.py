"""The Python of documentation: it runs statement by statement, and prints what the comments behind `print` have."""

from __future__ import annotations

import ast
import io
import os
import re
from collections.abc import MutableMapping
from contextlib import redirect_stdout
from pathlib import Path

#: Whether blocks that import Keras get it (`make -C lab tutorials`), else layergraph, which has the same names.
STOCK_KERAS = os.environ.get("DOCS_KERAS") == "stock"


def execute(text: str, file: Path, line: int, names: MutableMapping[str, object]) -> None:
    """Executes a block. Lines of tracebacks are those of the page, where the block begins at `line`.

    Raises what the block raises, and AssertionError if a statement `print(...)  # TEXT` prints something else.
    """
    text = text if STOCK_KERAS else with_layergraph(text)
    tree = ast.parse(text, str(file))
    for statement in tree.body:
        expected = comment_of(statement, text)
        ast.increment_lineno(statement, line - 1)
        printed = io.StringIO()
        with redirect_stdout(printed):
            exec(compile(ast.Module([statement], []), str(file), "exec"), names)
        got = printed.getvalue().rstrip("\n")
        assert expected in (None, got), f"{file}:{statement.lineno}: printed {got!r}, expected {expected!r}"


def with_layergraph(text: str) -> str:
    text = re.sub(r"^import keras$", "import layergraph as keras", text, flags=re.MULTILINE)
    return re.sub(r"^from keras import ", "from layergraph import ", text, flags=re.MULTILINE)


def comment_of(statement: ast.stmt, text: str) -> str | None:
    """The comment behind a call of `print`."""
    if not (isinstance(statement, ast.Expr) and ast.unparse(statement).startswith("print(")):
        return None
    rest = text.splitlines()[(statement.end_lineno or 1) - 1].encode()[statement.end_col_offset :].decode()
    match = re.match(r"\s+# (.*)", rest)
    return match[1] if match else None
