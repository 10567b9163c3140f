"""Plausible bugs as edits of the source: what one slip of the hand, or one thing forgotten, makes of a line."""

from __future__ import annotations

import ast
import dataclasses

COMPARISONS = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
OPERATORS = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "*"),
    ast.Pow: ("**", "*"),
    ast.BitAnd: ("&", "|"),
    ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
}
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "minimum": "maximum", "maximum": "minimum"}
_ORDERS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
#: Calls and keywords that only people see, or only the type checker.
TEXTS = {"logger", "_log", "logging", "warnings"}
TYPING = {"cast", "TypeVar", "NewType", "ParamSpec", "TYPE_CHECKING", "TypeAlias", "overload"}
COSMETIC = {"daemon", "name", "description", "help", "metavar", "show_default", "stacklevel", "exc_info", "extra"}
#: Numbers from here on are sizes: one more or less is no bug that anything could notice.
SIZE = 32


@dataclasses.dataclass(frozen=True)
class Mutation:
    """One edit of one file: `text` in place of bytes `start` to `end`."""

    path: str
    line: int
    column: int
    operator: str
    start: int
    end: int
    text: str
    #: The innermost function or class around it: `Plan.run`, or "" for the module.
    scope: str
    #: The first line of that.
    scope_line: int
    #: Whether an import runs it: it is in no function.
    imported: bool
    #: The statement's first line up to the edit's last: running one of these may run the edit.
    lines: tuple[int, int]

    @property
    def name(self) -> str:
        """What `MUTANT=` takes."""
        return f"{self.path}:{self.line}:{self.column}:{self.operator}"

    @property
    def identity(self) -> str:
        """What stays as it is where lines are added elsewhere."""
        return f"{self.path}:{self.scope}:{self.line - self.scope_line}:{self.column}:{self.operator}"

    def apply(self, source: bytes) -> bytes:
        """The file with the bug."""
        return source[: self.start] + self.text.encode() + source[self.end :]


def mutations(path: str, source: bytes) -> list[Mutation]:
    """Every mutation of a file, in the order of its lines. Some don't compile: see `compiles`."""
    return sorted(_Finder(path, source).found, key=lambda each: (each.start, each.name))


def compiles(mutation: Mutation, source: bytes) -> bool:
    """Whether the file with the bug is Python."""
    try:
        ast.parse(mutation.apply(source))
    except (SyntaxError, ValueError):
        return False
    return True


class _Finder(ast.NodeVisitor):
    def __init__(self, path: str, source: bytes) -> None:
        self.found: list[Mutation] = []
        self._path = path
        self._source = source
        self._starts = [0]
        for line in source.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))
        self._scope: list[str] = []
        self._scope_lines = [1]
        self._body_column = 0
        self._functions = 0
        self._statement: ast.stmt | None = None
        self.visit(ast.parse(source))

    # Where things are.

    def _at(self, line: int, column: int) -> int:
        return self._starts[line - 1] + column

    def _start(self, node: ast.AST) -> int:
        return self._at(node.lineno, node.col_offset)  # type: ignore[attr-defined]

    def _end(self, node: ast.AST) -> int:
        return self._at(node.end_lineno, node.end_col_offset)  # type: ignore[attr-defined]

    def _text(self, node: ast.AST) -> str:
        return self._source[self._start(node) : self._end(node)].decode()

    def _add(self, operator: str, node: ast.AST, text: str, start: int | None = None, end: int | None = None) -> None:
        first = self._statement.lineno if self._statement else node.lineno  # type: ignore[attr-defined]
        self.found.append(
            Mutation(
                self._path,
                node.lineno,  # type: ignore[attr-defined]
                node.col_offset,  # type: ignore[attr-defined]
                operator,
                self._start(node) if start is None else start,
                self._end(node) if end is None else end,
                text,
                ".".join(self._scope),
                self._scope_lines[-1],
                not self._functions,
                (first, node.end_lineno),  # type: ignore[attr-defined]
            )
        )

    def _replace_between(self, operator: str, left: ast.AST, right: ast.AST, old: str, new: str, node: ast.AST) -> None:
        """Replaces an operator's sign, which no node of the tree has, between its operands."""
        start, end = self._end(left), self._start(right)
        found = self._source[start:end].find(old.encode())
        if found >= 0:
            self._add(operator, node, new, start + found, start + found + len(old))

    def _enter(self, node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._scope.append(node.name)
        self._scope_lines.append(node.lineno)

    def _exit(self) -> None:
        self._scope.pop()
        self._scope_lines.pop()

    # What is left alone.

    def visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.stmt):
            outer, self._statement = self._statement, node
            super().visit(node)
            self._statement = outer
        else:
            super().visit(node)

    def _leave(self, node: ast.AST) -> None:
        """For what holds no code, or none that a test could notice."""

    visit_Assert = visit_Import = visit_ImportFrom = visit_JoinedStr = _leave  # noqa: N815

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value and "TypeAlias" not in self._text(node.annotation):
            self.visit(node.value)

    def visit_arguments(self, node: ast.arguments) -> None:
        for default in [*node.defaults, *node.kw_defaults]:
            if default:
                self.visit(default)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        if not any("Protocol" in self._text(base) for base in node.bases):
            self._enter(node)
            self._visit_body(node.body)
            self._exit()

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        if node.name in ("__repr__", "__str__") or any("overload" in self._text(each) for each in node.decorator_list):
            return
        # Defaults are made by an import, not by a call.
        self.visit(node.args)
        self._enter(node)
        self._functions += 1
        body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
        if len(body) > 1 and node.returns and self._text(node.returns) == "None" and node.name != "__init__":
            self._statement = body[0]
            self._add("return-at-once", body[0], f"return\n{' ' * body[0].col_offset}", end=self._start(body[0]))
            self._statement = None
        outer, self._body_column = self._body_column, node.body[0].col_offset
        self._visit_body(body)
        self._body_column = outer
        self._functions -= 1
        self._exit()

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

    def visit_Module(self, node: ast.Module) -> None:
        self._visit_body(node.body)

    def _visit_body(self, body: list[ast.stmt]) -> None:
        for statement in body:
            self.visit(statement)

    # Statements.

    def visit_Expr(self, node: ast.Expr) -> None:
        value = node.value.value if isinstance(node.value, ast.Await) else node.value
        if not isinstance(value, ast.Call) or self._text(value.func).split(".")[0] in TEXTS:
            return
        self._add("drop-call", node, "pass")
        self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        if any(isinstance(each, ast.Name) and each.id.startswith("__") for each in node.targets):
            return
        kept = all(isinstance(each, ast.Attribute | ast.Subscript) for each in node.targets)
        if kept and self._scope and self._scope[-1] != "__init__":
            self._add("drop-assignment", node, "pass")
        self.visit(node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._add("drop-assignment", node, "pass")
        signs = OPERATORS.get(type(node.op))
        if signs and not _is_no_number(node.value):
            self._replace_between("arithmetic", node.target, node.value, signs[0] + "=", signs[1] + "=", node)
        self.visit(node.value)

    def visit_Delete(self, node: ast.Delete) -> None:
        self._add("drop-del", node, "pass")

    def visit_Raise(self, node: ast.Raise) -> None:
        if node.exc is not None and self._text(node.exc).startswith(("AssertionError", "NotImplementedError")):
            return  # For the type checker and for subclasses: nothing gets there.
        self._add("drop-raise", node, "pass")

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is None:
            self._add("drop-return", node, "pass")
            return
        early = node.col_offset > self._body_column
        # To those who ask a question False is the same.
        if early and self._text(node.value) not in ("None", "False"):
            self._add("return-none", node, "return None")
        self.visit(node.value)

    def visit_Continue(self, node: ast.Continue) -> None:
        self._add("continue-break", node, "break")

    def visit_Break(self, node: ast.Break) -> None:
        self._add("break-continue", node, "continue")

    def visit_If(self, node: ast.If) -> None:
        if "TYPE_CHECKING" in self._text(node.test) or "__name__" in self._text(node.test):
            return
        self._negate(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._negate(node.test)
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        if not isinstance(node.test, ast.Constant):
            self._negate(node.test)
        self.generic_visit(node)

    def _negate(self, test: ast.expr) -> None:
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            return  # `drop-not` is the same.
        if isinstance(test, ast.Compare) and len(test.ops) == 1 and not isinstance(test.ops[0], _ORDERS):
            return  # The comparison's own mutation is the same.
        self._add("negate", test, f"not ({self._text(test)})")

    def visit_With(self, node: ast.With | ast.AsyncWith) -> None:
        item = node.items[0]
        if len(node.items) == 1 and item.optional_vars is None:
            end = self._end(item.context_expr)
            self._add("drop-with", node, "if True", self._start(node), end)
        for each in node.items:
            self.visit(each.context_expr)
        self._visit_body(node.body)

    visit_AsyncWith = visit_With  # noqa: N815

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.type is not None:
            self._add("drop-except", node.type, "()")
        self._visit_body(node.body)

    def visit_Try(self, node: ast.Try) -> None:
        if node.finalbody and not node.handlers:
            first = node.finalbody[0]
            self._add("drop-finally", first, "pass", end=self._end(node.finalbody[-1]))
        self.generic_visit(node)

    # Expressions.

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        for left, right, operator in zip(operands, operands[1:], node.ops, strict=False):
            old, new = COMPARISONS[type(operator)]
            self._replace_between("compare", left, right, old, new, left if len(node.ops) > 1 else node)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        self._replace_between("and-or", node.values[-2], node.values[-1], old, new, node)
        for value in node.values[1:]:
            before = node.values[node.values.index(value) - 1]
            self._add("drop-operand", value, "", self._end(before), self._end(value))
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not):
            self._add("drop-not", node, self._text(node.operand))
        elif isinstance(node.op, ast.USub):
            self._add("drop-minus", node, self._text(node.operand))
            if isinstance(node.operand, ast.Constant):
                return
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        signs = OPERATORS.get(type(node.op))
        if signs and not _is_no_number(node.left) and not _is_no_number(node.right):
            self._replace_between("arithmetic", node.left, node.right, *signs, node)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if value is True or value is False:
            self._add("constant", node, str(not value))
        elif isinstance(value, int):
            self._add("constant", node, str(value + 1 if value < SIZE else value * 10))
            if 0 < value < SIZE:
                self._add("constant-less", node, str(value - 1))
        elif isinstance(value, float):
            larger = value * 1000 if 0 < value < 1e-3 else value + 1 if value < 2 else value * 2
            self._add("constant", node, repr(larger))

    def visit_Slice(self, node: ast.Slice) -> None:
        if node.lower and node.upper is None and node.step is None:
            self._add("drop-bound", node.lower, "")
        if node.upper and node.lower is None and node.step is None:
            self._add("drop-bound", node.upper, "")
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self._negate(test)
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load) and node.id in NAMES:
            self._add("min-max", node, NAMES[node.id])

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if node.attr in NAMES:
            self._add("min-max", node, NAMES[node.attr], self._end(node) - len(node.attr))
        self.visit(node.value)

    def visit_Call(self, node: ast.Call) -> None:
        called = self._text(node.func)
        if called.split(".")[0] in TEXTS | TYPING or called.split(".")[-1] in TYPING:
            return
        for first, second in zip(node.args, node.args[1:], strict=False):
            if _is_place(first) and _is_place(second) and called not in ("isinstance", "issubclass", "zip"):
                between = self._source[self._end(first) : self._start(second)].decode()
                swapped = f"{self._text(second)}{between}{self._text(first)}"
                self._add("swap-arguments", first, swapped, end=self._end(second))
        for index, keyword in enumerate(node.keywords):
            if keyword.arg is None or keyword.arg in COSMETIC:
                continue
            before = node.keywords[index - 1] if index else node.args[-1] if node.args else None
            if keyword.arg != "strict" and before is not None:
                self._add("drop-keyword", keyword, "", self._end(before), self._end(keyword))
        self.visit(node.func)
        for argument in node.args:
            self.visit(argument)
        for keyword in node.keywords:
            if keyword.arg not in COSMETIC | {"strict"}:
                self.visit(keyword.value)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if not _is_type(node.value):
            self.generic_visit(node)


def _is_place(node: ast.expr) -> bool:
    return isinstance(node, ast.Name | ast.Attribute | ast.Subscript)


def _is_no_number(node: ast.expr) -> bool:
    """Whether arithmetic with it would fail at once."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str | bytes)
    return isinstance(node, ast.JoinedStr | ast.List | ast.Tuple | ast.ListComp)


def _is_type(node: ast.expr) -> bool:
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    return name in ("Literal", "Callable", "Annotated", "NDArray", "Union", "Optional", "Mapping", "Sequence")
