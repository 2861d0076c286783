"""What the product's code may look like: short functions, short calls, small records, reasons where it can't be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PRODUCT = ("operator/slipway", "serving-images/agent/slipway_agent", "serving-images/builder")
FILES = sorted(file for folder in PRODUCT for file in (ROOT / folder).rglob("*.py"))
MAX_LINES, MAX_POSITIONAL, MAX_FIELDS = 60, 5, 12
TABLE_ROWS = {"table.add_row"}
"""A row's cells are positional in rich."""


def too_long(file: Path) -> Iterator[str]:
    """Each function, call and record of the file that is too long."""
    for node in ast.walk(ast.parse(file.read_text())):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_LINES:
                    yield f"{node.name}: {lines} lines"
            case ast.Call() if len(node.args) > MAX_POSITIONAL and ast.unparse(node.func) not in TABLE_ROWS:
                yield f"line {node.lineno}: {len(node.args)} positional arguments for {ast.unparse(node.func)}"
            case ast.ClassDef() if any("dataclass" in ast.unparse(each) for each in node.decorator_list):
                fields = [each.target.id for each in node.body if _is_field(each)]  # type: ignore[attr-defined]
                if len(fields) > MAX_FIELDS and "field" not in (ast.get_docstring(node) or ""):
                    yield f"{node.name}: {len(fields)} fields, and no reason for them in its docstring"


def _is_field(node: ast.stmt) -> bool:
    return isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_functions_calls_and_records_are_short(file: Path) -> None:
    assert list(too_long(file)) == []


def test_what_is_too_long_is_found(tmp_path: Path) -> None:
    file = tmp_path / "long.py"
    body = "\n".join("    pass" for _ in range(MAX_LINES))
    fields = "\n".join(f"    f{number}: int" for number in range(MAX_FIELDS + 1))
    file.write_text(f"def long():\n{body}\nf(1, 2, 3, 4, 5, 6)\n@dataclass\nclass Wide:\n{fields}\n")
    assert {each.partition(":")[0] for each in too_long(file)} == {"long", "line 62", "Wide"}


@pytest.mark.parametrize("folder", ["operator/slipway", "serving-images/agent/slipway_agent"])
def test_each_module_says_what_it_is_for(folder: str) -> None:
    silent = [file for file in (ROOT / folder).rglob("*.py") if not ast.get_docstring(ast.parse(file.read_text()))]
    assert silent == []
