"""More mutants, drawn by a seed: a condition negated, < for <=, `and` for `or`, a guard dropped, a number one off.

Nobody looked at them: one that survives may be equivalent to the original, so they are shown and decide nothing.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from .table import Change, function_at

SWAPPED = {ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "=="}


def draw(root: Path, areas: Mapping[str, Sequence[str]], seed: int, count: int) -> list[tuple[str, str, Change]]:
    """Area, what it is, and where; the same ones for a seed while the tree is the same."""
    found = []
    for area, globs in areas.items():
        for path in sorted({path for glob in globs for path in root.glob(glob)}):
            source = path.read_text()
            for node in _inside_functions(ast.parse(source)):
                for what, start, end, text in _faults(node, source):
                    line = 1 + source.count("\n", 0, start)
                    at = path.relative_to(root)
                    found.append((area, what, Change(at, function_at(source, start), line, start, end, text)))
    return random.Random(seed).sample(found, min(count, len(found)))


def _inside_functions(tree: ast.AST, *, is_inside: bool = False) -> Iterator[ast.AST]:
    """Nodes of functions' bodies; none of formatted texts, whose offsets Python 3.11 doesn't know."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.JoinedStr):
            continue
        if is_inside:
            yield node
        yield from _inside_functions(node, is_inside=is_inside or isinstance(node, ast.FunctionDef))


def _faults(node: ast.AST, source: str) -> Iterator[tuple[str, int, int, str]]:
    match node:
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in SWAPPED:
            yield f"{SWAPPED[type(op)]} in a comparison", _end(left, source), _start(right, source), SWAPPED[type(op)]
        case ast.If(test=test, body=[ast.Return() | ast.Raise() | ast.Continue()], orelse=[]):
            yield "a guard is dropped", _start(test, source), _end(test, source), "False"
        case ast.If(test=test) | ast.IfExp(test=test):
            yield "a condition is negated", _start(test, source), _end(test, source), f"(not ({_text(test, source)}))"
        case ast.BoolOp(op=op, values=values):
            other = " or " if isinstance(op, ast.And) else " and "
            text = "(" + other.join(f"({_text(value, source)})" for value in values) + ")"
            yield f"{other.strip()} in a condition", _start(node, source), _end(node, source), text
        case ast.Constant(value=int() as number) if not isinstance(number, bool):
            yield f"{number + 1} for {number}", _start(node, source), _end(node, source), str(number + 1)


def _offset(source: str, line: int, column_bytes: int) -> int:
    lines = source.splitlines(keepends=True)
    return sum(map(len, lines[: line - 1])) + len(lines[line - 1].encode()[:column_bytes].decode())


def _start(node: ast.expr, source: str) -> int:
    return _offset(source, node.lineno, node.col_offset)


def _end(node: ast.expr, source: str) -> int:
    return _offset(source, node.end_lineno or node.lineno, node.end_col_offset or 0)


def _text(node: ast.expr, source: str) -> str:
    return source[_start(node, source) : _end(node, source)]
