"""Nothing that came over the wire or from state can be run: the package has no call that could."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import blocksync

PACKAGE = Path(blocksync.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
IMPORTS = {
    "pickle",
    "cPickle",
    "marshal",
    "shelve",
    "dill",
    "cloudpickle",
    "yaml",
    "jsonpickle",
    "code",
    "codeop",
    "imp",
}
CALLS = {"eval", "exec", "compile", "__import__", "execfile"}
METHODS = {("os", "system"), ("os", "popen"), ("subprocess", "getoutput"), ("subprocess", "getstatusoutput")}


def faults(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [each.name for each in node.names if each.name.partition(".")[0] in IMPORTS]
        elif isinstance(node, ast.ImportFrom):
            found += [node.module] if node.module and node.module.partition(".")[0] in IMPORTS else []
        elif isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Name) and called.id in CALLS:
                found.append(called.id)
            if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
                found += [called.attr] if (called.value.id, called.attr) in METHODS else []
            found += ["shell=True" for each in node.keywords if each.arg == "shell" and not _is_false(each.value)]
    return found


def _is_false(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is False


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_runs_nothing_that_it_was_given(path: Path) -> None:
    assert not faults(ast.parse(path.read_text()))


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from marshal import loads",
        "eval('1')",
        "import os\nos.system('x')",
        "f(shell=True)",
        "exec(x)",
    ],
)
def test_the_scan_finds_what_it_looks_for(text: str) -> None:
    assert faults(ast.parse(text))
