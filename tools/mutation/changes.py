"""The changes to the source of one module, each with one plain effect.

The changes are made to the text, not to the syntax tree, so that line numbers and everything else stay the same. They
follow the faults that people make: a statement is forgotten, a comparison is off by one, a condition is wrong, a part
of a condition or an argument is missing, a constant is wrong.

Left out is what a test would notice in any case or cannot notice: the names of variables (NameError), messages,
docstrings, annotations, imports, and code for the type checker.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
}
OPERATORS: dict[type[ast.operator], str] = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "//",
    ast.FloorDiv: "*",
    ast.LShift: ">>",
    ast.RShift: "<<",
    ast.BitAnd: "|",
    ast.BitOr: "&",
}
_FOR_TYPES = ("if TYPE_CHECKING:", "TYPE_CHECKING = False")
OPPOSITES = {"min": "max", "max": "min", "any": "all", "all": "any"}


@dataclass(frozen=True)
class Change:
    """One change.

    Args:
        start, end: what is replaced, as offsets in bytes.
        statement: the first line of the statement that contains it.
        function: the qualified name of the function or class; empty at the top of the module.
    """

    start: int
    end: int
    replacement: bytes
    line: int
    statement: int
    function: str

    def apply(self, source: bytes) -> bytes:
        return source[: self.start] + self.replacement + source[self.end :]

    def describe(self, source: bytes) -> str:
        old, new = (" ".join(text.decode().split()) for text in (source[self.start : self.end], self.replacement))
        return f"{old} -> {new}" if new != "pass" else f"without {old}"


def changes_of(source: bytes) -> list[Change]:
    """Return all changes to the source of a module, in the order of the lines."""
    found = _Finder(source).run()
    unique = {(each.start, each.end, each.replacement): each for each in found}
    return sorted(unique.values(), key=lambda each: (each.line, each.start, each.replacement))


class _Finder:
    """Walks through a module, and remembers the statement and the function it is in."""

    def __init__(self, source: bytes) -> None:
        self._source = source
        self._lines = [0]
        for line in source.splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))
        self._statement = 0
        self._function = ""

    def run(self) -> Iterator[Change]:
        yield from self._block(ast.parse(self._source).body, is_module=True)

    # Statements

    def _block(self, body: list[ast.stmt], is_module: bool = False) -> Iterator[Change]:
        for number, statement in enumerate(body):
            is_docstring = number == 0 and isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
            if is_docstring or isinstance(statement, ast.Import | ast.ImportFrom) or _is_for_types(statement):
                continue
            self._statement = statement.lineno
            yield from self._statement_changes(statement, is_module)

    def _statement_changes(self, statement: ast.stmt, is_module: bool) -> Iterator[Change]:
        match statement:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield from self._definition(statement)
                return
            case ast.If() | ast.While():
                yield from self._condition(statement.test, is_loop=isinstance(statement, ast.While))
            case ast.Return(value=ast.expr() as value) if not _is_none(value):
                yield self._change(value, "None")
            case ast.Expr(value=ast.Call() | ast.Await()) | ast.AugAssign() | ast.Delete() | ast.Raise():
                yield self._change(statement, "pass")
            case ast.Break() | ast.Continue():
                yield self._change(statement, "pass")
            case ast.Assign(targets=[target]) if not is_module and not isinstance(target, ast.Name):
                yield self._change(statement, "pass")
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str() | bytes() as value)):
                if is_module and name.isupper() and value:
                    yield self._change(statement.value, repr(value * 2))
        yield from self._inner(statement)

    def _definition(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> Iterator[Change]:
        outer = self._function
        self._function = f"{outer}.{node.name}".lstrip(".")
        if not isinstance(node, ast.ClassDef):
            for default in (*node.args.defaults, *filter(None, node.args.kw_defaults)):
                yield from self._expression(default)
        yield from self._block(node.body)
        self._function = outer

    def _inner(self, statement: ast.stmt) -> Iterator[Change]:
        for name, value in ast.iter_fields(statement):
            if name == "annotation" or isinstance(statement, ast.Raise):  # most are messages
                continue
            for node in value if isinstance(value, list) else [value]:
                if isinstance(node, ast.expr):
                    yield from self._expression(node)
                elif isinstance(node, ast.withitem):
                    yield from self._expression(node.context_expr)
                elif isinstance(node, ast.ExceptHandler):
                    yield from self._handler(node)
        for name in ("body", "orelse", "finalbody"):
            if block := getattr(statement, name, None):
                yield from self._block(block)

    def _handler(self, handler: ast.ExceptHandler) -> Iterator[Change]:
        first, last = handler.body[0], handler.body[-1]
        self._statement = first.lineno
        if not isinstance(first, ast.Raise):
            yield self._change_range(self._start(first), self._end(last), "raise", first.lineno)
        yield from self._block(handler.body)

    # Expressions

    def _condition(self, test: ast.expr, is_loop: bool = False) -> Iterator[Change]:
        if isinstance(test, ast.Constant):
            return
        yield self._change(test, "False")
        if not is_loop:
            yield self._change(test, "True")

    def _expression(self, node: ast.expr) -> Iterator[Change]:
        match node:
            case ast.JoinedStr():
                return
            case ast.BoolOp(values=values):
                for left_out in values:
                    kept = [f"({self._text(value)})" for value in values if value is not left_out]
                    word = " and " if isinstance(node.op, ast.And) else " or "
                    yield self._change(node, f"({word.join(kept)})")
            case ast.Compare(ops=[operator], left=left, comparators=[right]):
                new = COMPARISONS[type(operator)]
                yield self._change_range(self._end(left), self._start(right), f" {new} ", node.lineno)
            case ast.UnaryOp(op=ast.Not()):
                yield self._change(node, self._text(node.operand))
            case ast.IfExp(test=test):
                yield from self._condition(test)
            case ast.BinOp():
                yield from self._operator(node)
            case ast.Constant():
                yield from self._constant(node)
            case ast.Call():
                yield from self._call(node)
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                yield from self._expression(child)
            elif isinstance(child, ast.keyword):
                yield from self._expression(child.value)
            elif isinstance(child, ast.comprehension):
                yield from self._comprehension(child)

    def _operator(self, node: ast.BinOp) -> Iterator[Change]:
        is_text = any(_is_text(side) for side in (node.left, node.right))
        if type(node.op) in OPERATORS and not is_text:
            new = OPERATORS[type(node.op)]
            yield self._change_range(self._end(node.left), self._start(node.right), f" {new} ", node.lineno)

    def _constant(self, node: ast.Constant) -> Iterator[Change]:
        if isinstance(node.value, bool):
            yield self._change(node, str(not node.value))
        elif isinstance(node.value, int | float):
            yield self._change(node, repr(node.value + 1))

    def _call(self, node: ast.Call) -> Iterator[Change]:
        if isinstance(node.func, ast.Name) and node.func.id in OPPOSITES:
            yield self._change(node.func, OPPOSITES[node.func.id])
        for keyword in node.keywords:
            if keyword.arg is not None:
                parts = [self._text(each) for each in (*node.args, *node.keywords) if each is not keyword]
                yield self._change(node, f"{self._text(node.func)}({', '.join(parts)})")

    def _comprehension(self, node: ast.comprehension) -> Iterator[Change]:
        yield from self._expression(node.iter)
        for condition in node.ifs:
            yield self._change(condition, "True")
            yield from self._expression(condition)

    # Places

    def _start(self, node: ast.AST) -> int:
        offset: int = self._lines[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]
        return offset

    def _end(self, node: ast.AST) -> int:
        offset: int = self._lines[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]
        return offset

    def _text(self, node: ast.AST) -> str:
        return self._source[self._start(node) : self._end(node)].decode()

    def _change(self, node: ast.expr | ast.stmt, replacement: str) -> Change:
        return self._change_range(self._start(node), self._end(node), replacement, node.lineno)

    def _change_range(self, start: int, end: int, replacement: str, line: int) -> Change:
        # In parentheses that only the replaced text has, such as `(a) < (b)`, the operator is not alone between them.
        old = self._source[start:end]
        head, tail = old[: len(old) - len(old.lstrip(b") "))], old[len(old.rstrip(b"( ")) :]
        if replacement.startswith(" ") and (b")" in head or b"(" in tail):
            replacement = f"{head.decode()}{replacement}{tail.decode()}"
        return Change(start, end, replacement.encode(), line, self._statement, self._function)


def _is_for_types(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If | ast.Assign) and ast.unparse(statement).split("\n")[0] in _FOR_TYPES


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes))
