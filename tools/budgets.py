"""Prints the size budgets of the source tree and fails on a breach: `python tools/budgets.py`.

Small things stay readable. A function fits a screen, a file has one reason to change, a constructor does not need the world,
and no module imports itself in a circle."""

from __future__ import annotations

import ast
import re
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FUNCTION_LINES = 60
FILE_LINES = 500
CONSTRUCTOR_PARAMETERS = 8
_NOT_CODE = re.compile(r'"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\'|//[^\n]*|^#[^\n]*', re.MULTILINE)
_TYPE = re.compile(r"(?:template\s*<[^>]*>\s*)?(?:namespace|struct|class|enum|union|extern)\b")


def functions(path: Path, tree: ast.AST) -> list[tuple[int, str]]:
    """(lines, where) of every function."""
    return [
        (node.end_lineno - node.lineno + 1, f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None
    ]


def native_functions(path: Path) -> list[tuple[int, str]]:
    """(lines, where) of every C++ function: a block in braces whose head has parentheses and declares no type."""
    text = _NOT_CODE.sub("", path.read_text(encoding="utf-8"))
    found: list[tuple[int, str]] = []
    heads: list[tuple[int, bool]] = []  # of the open blocks: the place of the head, and whether it is a function's
    start = 0
    for mark in re.finditer(r"[{};]", text):
        if mark[0] == "{":
            head = text[start : mark.start()].lstrip()
            heads.append((mark.start() - len(head), "(" in head and _TYPE.match(head) is None))
        elif mark[0] == "}":
            begin, function = heads.pop()
            if function:
                lines = text.count("\n", begin, mark.end()) + 1
                found.append((lines, f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, begin) + 1}"))
        start = mark.end()
    return found


def constructors(path: Path, tree: ast.AST) -> list[tuple[int, str]]:
    """(parameters, where) of every written constructor."""
    return [
        (len(item.args.args) - 1 + len(item.args.kwonlyargs), f"{path.relative_to(ROOT)}:{item.lineno} {node.name}")
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for item in node.body
        if isinstance(item, ast.FunctionDef) and item.name == "__init__"
    ]


def imports(tree: ast.Module) -> set[str]:
    """Modules of the product that this one imports when it is imported (not inside functions or for typing only)."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("manylora"):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if alias.name.startswith("manylora")}
    return names


def cycle(modules: dict[str, set[str]]) -> list[str]:
    """A circle of imports, or nothing."""
    graph = {name: {target for target in targets if target in modules and target != name} for name, targets in modules.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def main() -> int:
    """Prints the largest of each kind; returns 1 when one is over its budget."""
    sources = sorted((ROOT / "src").rglob("*.py"))
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sources}
    native = [*sorted((ROOT / "native").rglob("*.cpp")), *sorted((ROOT / "native").rglob("*.h"))]
    files = [*sources, *native]
    kinds = [
        ("function lines", FUNCTION_LINES, [entry for path, tree in trees.items() for entry in functions(path, tree)]),
        ("native function lines", FUNCTION_LINES, [entry for path in native for entry in native_functions(path)]),
        ("file lines", FILE_LINES, [(len(path.read_text().splitlines()), str(path.relative_to(ROOT))) for path in files]),
        ("constructor parameters", CONSTRUCTOR_PARAMETERS, [e for path, tree in trees.items() for e in constructors(path, tree)]),
    ]
    breaches = 0
    for kind, budget, entries in kinds:
        largest = sorted(entries, reverse=True)[:3]
        print(f"{kind}: budget {budget}; largest " + "; ".join(f"{size} {where}" for size, where in largest))
        for size, where in entries:
            if size > budget:
                breaches += 1
                print(f"  over budget: {where} has {size} {kind}", file=sys.stderr)
    names = {path: ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__") for path in sources}
    if circle := cycle({names[path]: imports(tree) for path, tree in trees.items()}):
        breaches += 1
        print("  import cycle: " + " -> ".join(circle), file=sys.stderr)
    total = sum(len(path.read_text().splitlines()) for path in sources)
    print(f"{len(sources)} Python files with {total} lines, {len(files) - len(sources)} C++ files")
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())
