"""Small faults, one at a time, that a source file could have.

What is changed: comparison, boolean and arithmetic operators, numbers, strings, booleans, returned values, conditions
(negated, and branches that are never taken), filters of comprehensions, and single statements, which are left out.
What is not: annotations, decorators, docstrings, `__slots__`, and what only states what the code around it guarantees
(`assert`, `assert_never`, `raise AssertionError`, `strict=True` of `zip`), where a fault changes nothing that runs.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_OTHER_COMPARISON: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_OTHER_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.Mod: ast.Mult,
}
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_GUARANTEES = ("assert_never", "TypeVar", "NewType")


@dataclass(frozen=True, slots=True)
class Change:
    """One fault: where it is, and enough to make it again from the same source."""

    file: str
    line: int
    statement: int
    """The line on which the changed statement begins."""
    function: str | None
    """Qualified name of the outermost function it is in; `None` where it takes effect while the file is imported."""
    source: str
    """The line as it stands, without its indentation."""
    told: str
    """`old -> new`."""
    node: int
    variant: int

    @property
    def key(self) -> tuple[str, str, str]:
        """What names it for as long as its line stays as it is."""
        return self.file, self.source, self.told


@dataclass(frozen=True, slots=True)
class _Place:
    node: ast.AST
    parent: ast.AST
    field: str
    position: int | None
    statement: ast.stmt
    function: str | None
    scope: str


def changes(file: str, source: str) -> list[Change]:
    """All the faults that can be made in `source`; `file` is only its name."""
    made: list[Change] = []
    lines = source.splitlines()
    for number, place in enumerate(_places(ast.parse(source))):
        for variant, (new, _) in enumerate(_variants(place)):
            line = getattr(place.node, "lineno", place.statement.lineno)
            old = _old(place.node)
            told = f"{_short(old)} -> {_short(new)}"
            made.append(
                Change(
                    file, line, place.statement.lineno, place.function, lines[line - 1].strip(), told, number, variant
                )
            )
    return made


def changed(source: str, change: Change) -> ast.Module:
    """The tree of `source` with this one fault; its line numbers stay."""
    tree = ast.parse(source)
    for number, place in enumerate(_places(tree)):
        if number == change.node:
            _, apply = list(_variants(place))[change.variant]
            apply()
            return ast.fix_missing_locations(tree)
    raise ValueError(f"{change.file}:{change.line} is not in this source: was it edited meanwhile?")


def _old(node: ast.AST) -> str:
    match node:
        case ast.If(test):
            return f"if {ast.unparse(test)}"
        case ast.While(test):
            return f"while {ast.unparse(test)}"
        case ast.comprehension(_, iterated, _):
            return f"over {ast.unparse(iterated)}"
    return ast.unparse(node)


def _short(words: str) -> str:
    words = " ".join(words.split())
    return words if len(words) <= 90 else words[:60] + " … " + words[-25:]


class _Reporting(ast.NodeTransformer):
    """Puts a call of `name` with its line before each statement of a function."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._inside = False

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:  # the name that ast looks for
        before, self._inside = self._inside, True
        self.generic_visit(node)
        self._inside = before
        return node

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        for field in ("body", "orelse", "finalbody"):
            statements = getattr(node, field, None)
            if self._inside and isinstance(statements, list):
                reported: list[ast.stmt] = []
                for statement in statements:
                    call = ast.Call(ast.Name(self._name, ast.Load()), [ast.Constant(statement.lineno)], [])
                    reported += (ast.copy_location(ast.Expr(call), statement), statement)
                setattr(node, field, reported)
        return node


def reporting(source: str, name: str) -> ast.Module:
    """The tree of `source` in which every statement in a function first calls the global `name` with its line."""
    tree = ast.parse(source)
    _Reporting(name).visit(tree)
    return ast.fix_missing_locations(tree)


def _places(tree: ast.Module) -> Iterator[_Place]:
    for position, statement in enumerate(tree.body):
        yield from _within(_Place(statement, tree, "body", position, statement, None, ""))


def _within(place: _Place) -> Iterator[_Place]:
    node = place.node
    if _is_left_alone(place):
        return
    yield place
    scope = place.scope
    if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
        scope = f"{scope}.{node.name}" if scope else node.name
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "type_params", "bases", "msg", "ctx"):
            continue
        function = place.function
        if isinstance(node, _FUNCTIONS) and field == "body" and function is None:
            function = scope
        items = value if isinstance(value, list) else [value]
        for position, item in enumerate(items):
            if isinstance(item, ast.AST):
                statement = item if isinstance(item, ast.stmt) else place.statement
                at = position if isinstance(value, list) else None
                yield from _within(_Place(item, node, field, at, statement, function, scope))


def _is_left_alone(place: _Place) -> bool:
    node = place.node
    match node:
        case ast.Expr(ast.Constant()) | ast.Import() | ast.ImportFrom() | ast.Assert():
            return True
        case ast.Expr(ast.Call(ast.Name(name))) if name in _GUARANTEES:
            return True
        case ast.Raise(exc=ast.Call(ast.Name("AssertionError"))):
            return True
        case ast.AnnAssign(annotation=ast.Name("TypeAlias")):
            return True
        case ast.Assign(targets=[ast.Name("__slots__" | "__all__")]):
            return True
        case ast.keyword(arg="strict"):
            return True
    return False


def _variants(place: _Place) -> Iterator[tuple[str, Callable[[], None]]]:
    """What could stand here instead: its text, and the act of putting it there."""
    node = place.node

    def instead(new: ast.AST) -> Callable[[], None]:
        def apply() -> None:
            ast.copy_location(new, node)
            if place.position is None:
                setattr(place.parent, place.field, new)
            else:
                getattr(place.parent, place.field)[place.position] = new

        return apply

    def offered(new: ast.AST) -> tuple[str, Callable[[], None]]:
        return ast.unparse(ast.fix_missing_locations(ast.copy_location(new, node))), instead(new)

    match node:
        case ast.Compare(left, ops, comparators):
            for index, operator in enumerate(ops):
                other = [*ops[:index], _OTHER_COMPARISON[type(operator)](), *ops[index + 1 :]]
                yield offered(ast.Compare(left, other, comparators))
        case ast.BoolOp(operator, values):
            yield offered(ast.BoolOp(ast.Or() if isinstance(operator, ast.And) else ast.And(), values))
        case ast.UnaryOp(ast.Not(), operand):
            yield offered(operand)
        case ast.BinOp(left, operator, right) if type(operator) in _OTHER_ARITHMETIC:
            yield offered(ast.BinOp(left, _OTHER_ARITHMETIC[type(operator)](), right))
        case ast.Constant(bool(value)):
            yield offered(ast.Constant(not value))
        case ast.Constant(int(value) | float(value)):
            yield offered(ast.Constant(value + 1))
        case ast.Constant(str(value)):
            yield offered(ast.Constant(f"XX{value}XX" if value else "XX"))
        case ast.Constant(bytes(value)):
            yield offered(ast.Constant(b"XX" + value + b"XX" if value else b"XX"))
        case ast.IfExp(test, body, orelse):
            yield offered(ast.IfExp(ast.UnaryOp(ast.Not(), test), body, orelse))
        case ast.Return(value) if value is not None and not _is_none(value):
            yield offered(ast.Return(ast.Constant(None)))
        case ast.If(test):
            yield _condition(node, ast.UnaryOp(ast.Not(), test))
            yield _condition(node, ast.Constant(False))
        case ast.While(test):
            yield _condition(node, ast.Constant(False))
        case ast.comprehension(_, _, ifs):
            for index, test in enumerate(ifs):
                yield f"no filter {ast.unparse(test)}", _dropped(ifs, index)
        case ast.Continue():
            yield offered(ast.Break())
        case ast.AugAssign(target, _, value):
            yield offered(ast.Assign([target], value))
            yield offered(ast.Pass())
        case ast.Assign([target], value) if place.function is not None:
            if isinstance(target, ast.Name) and not _is_none(value):
                yield offered(ast.Assign([target], ast.Constant(None)))
            elif isinstance(target, ast.Attribute | ast.Subscript):
                yield offered(ast.Pass())
        case ast.AnnAssign(ast.Attribute()) if place.function is not None:
            yield offered(ast.Pass())
        case ast.Expr() | ast.Delete() | ast.Raise() | ast.Break() if place.function is not None:
            yield offered(ast.Pass())


def _is_none(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is None


def _condition(node: ast.If | ast.While, test: ast.expr) -> tuple[str, Callable[[], None]]:
    word = "if" if isinstance(node, ast.If) else "while"

    def apply() -> None:
        node.test = ast.copy_location(test, node.test)

    return f"{word} {ast.unparse(test)}", apply


def _dropped(ifs: list[ast.expr], index: int) -> Callable[[], None]:
    def apply() -> None:
        del ifs[index]

    return apply
