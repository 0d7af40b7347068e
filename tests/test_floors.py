"""A module imports only from its own floor and the floors below."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "xtool"
GROUND = [
    "errors", "inputs", "registry", "config", "header", "lineage", "axes", "seeds", "intervals",
    "rows", "averages", "widths", "categories",
]  # fmt: skip
FLOORS = [
    [*GROUND],
    ["atomic", "storage", "writing", "checkpoint", "dataset", "gather"],
    ["corpora", "tokenizers"],
    ["tasks"],
    ["layers"],
    ["archs"],
    ["plots"],
    ["evaluation"],
    ["analysis"],
    ["training"],
    ["surgery"],
    ["commands"],
    ["cli", "__main__"],
]
LEVEL = {name: level for level, names in enumerate(FLOORS) for name in names}
LIGHT = {"torch", "numpy", "matplotlib", "blake3", "rich", "typer"}


def imports(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_from_below(path: Path) -> None:
    own = path.relative_to(ROOT).parts[0].removesuffix(".py")
    if own == "__init__":
        return
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "xtool" and len(parts) > 1 and parts[1] != "__version__":
            assert LEVEL[parts[1]] <= LEVEL[own], f"{own} imports {name}"


@pytest.mark.parametrize("name", GROUND)
def test_the_ground_needs_only_the_standard_library_and_pydantic(name: str) -> None:
    tops = {one.split(".")[0] for one in imports(ROOT / f"{name}.py")}
    assert not tops & LIGHT


def test_every_module_has_a_floor() -> None:
    names = {p.relative_to(ROOT).parts[0].removesuffix(".py") for p in ROOT.rglob("*.py")}
    assert names - {"__init__"} == set(LEVEL)


def test_nothing_reads_pickle_or_runs_data() -> None:
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in {"eval", "exec", "torch.load", "yaml.load"}, path
                assert not called.endswith((".extractall", ".extract")), path
        assert not {"pickle", "shelve", "marshal"} & {i.split(".")[0] for i in imports(path)}, path
