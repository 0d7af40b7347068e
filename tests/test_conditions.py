"""The table of conditions: what each operator promises for each growth, and that it is so."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
from conftest import dials_of, grow_to, make_model

from xtool import registry
from xtool.axes import layout
from xtool.checkpoint import Reader
from xtool.errors import CheckFailed, UsageError, XtoolError
from xtool.storage import Source
from xtool.surgery.plan import plan, promise

ROOT = Path(__file__).parents[1]
OPERATORS = registry.names("surgery/operators")
EXACT = [name for name in OPERATORS if promise(name) == "exact"]
NORMS, TIES = ("none", "layernorm", "rmsnorm"), ("free", "tied")
POSITIONS = ("none", "learned", "sinusoidal", "sinusoidal-unpaired", "rotary")
# From 2 layers of d_model 32 with 4 heads of queries and 2 of keys.
COLUMNS: dict[str, list[dict[str, int]]] = {
    "`--to` x2": [{"d_model": 64}, {"d_model": 96}],
    "`--to` other": [{"d_model": 48}, {"d_model": 100}],
    "inner x2": [
        {"n_heads": 8},
        {"n_heads": 8, "n_kv_heads": 2},
        {"n_kv_heads": 4},
        {"d_head": 16},
        {"d_value": 16},
        {"d_ff": 256},
    ],
    "inner other": [
        {"n_heads": 6},
        {"n_heads": 6, "n_kv_heads": 2},
        {"d_head": 22},
        {"d_value": 20},
        {"d_ff": 150},
    ],
    "depth x2": [{"n_layers": 4}],
    "depth other": [{"n_layers": 3}],
    "context": [{"context": 20}],
    "vocab": [{"vocab_size": 40}],
}


def small(path: Path, norm: str, tie: str, positions: str) -> dict[str, Any]:
    heads = {"n_heads": 4, "n_kv_heads": 2}
    tied = tie == "tied"
    return make_model(
        path, d_model=32, **heads, norm=norm, tied_head=tied, positions=positions, bias="all"
    )


def dials_for(method: str, change: dict[str, int], folder: Path) -> dict[str, Any]:
    dials = dials_of(method, folder)
    if method == "passthrough":
        dials["slices"] = {3: "0:2,1:2", 4: "0:2,0:2"}.get(change.get("n_layers", 2), "0:2")
    return dials


def verdict(reader: Reader, method: str, change: dict[str, int]) -> str:
    """`exact`, `approximate`, or `refused: ` and the reason."""
    try:
        return promise(
            plan(
                reader, change, method, dials_for(method, change, reader.source.path.parent), 0
            ).method
        )
    except UsageError as error:
        return f"refused: {error.message}"


def cell(verdicts: dict[tuple[str, str], set[str]]) -> str:
    """One cell of the README's table, from the verdicts by norm and head."""
    every = set().union(*verdicts.values())
    if len(every) == 1:
        return {"exact": "exact", "approximate": "changes", "refused": "no"}[every.pop()]
    good = [key for key in verdicts if verdicts[key] == {"exact"}]
    bad = [key for key in verdicts if key not in good]
    names = [f"{norm.replace('none', 'no norm')}, {tie}" for norm, tie in min(good, bad, key=len)]
    return f"exact {'only' if len(good) < len(bad) else 'but'} for {' or '.join(names)}"


def conditions(folder: Path) -> str:
    """The README's table, from what every operator says of every growth."""
    found: dict[tuple[str, str], dict[tuple[str, str], set[str]]] = {}
    for norm, tie in product(NORMS, TIES):
        small(folder / "small.st", norm, tie, "learned")
        with Source(folder / "small.st") as source:
            reader = Reader(source, layout(source.require_header().config))
            for method, (column, changes) in product(OPERATORS, COLUMNS.items()):
                said = {verdict(reader, method, one).partition(":")[0] for one in changes}
                found.setdefault((method, column), {})[norm, tie] = said
    lines = ["| `--method` | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for method in OPERATORS:
        cells = [cell(found[method, column]) for column in COLUMNS]
        lines.append(f"| `{method}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def check_cell(
    folder: Path, method: str, change: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> str:
    """The verdict on one growth, after it was found to be so on the written file."""
    path, out = folder / "small.st", folder / "grown.st"
    out.unlink(missing_ok=True)
    with Source(path) as source:
        said = verdict(Reader(source, layout(source.require_header().config)), method, change)
    dials = dials_for(method, change, folder)
    if said == "exact":
        assert grow_to(path, out, method, dials=dials, **change).exact
    if said.startswith("refused"):
        assert said.startswith(f"refused: `{method}` refuses: ")
        with pytest.raises(UsageError) as error:
            grow_to(path, out, method, dials=dials, **change)
        assert error.value.message == said.removeprefix("refused: ")
        assert not out.exists()
        if method in EXACT:  # the condition refuses nothing that would have been exact
            entry = registry.load("surgery/operators", method)
            with monkeypatch.context() as patch:
                patch.setattr(type(entry), "refuse", lambda self, growth: "")
                with pytest.raises((CheckFailed, XtoolError, RuntimeError)):
                    grow_to(path, out, method, dials=dials, **change)
    return said.partition(":")[0]


@pytest.mark.parametrize("method", EXACT)
def test_the_corners_of_the_table_hold(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = []
    for norm, tie in (("none", "tied"), ("layernorm", "tied"), ("rmsnorm", "free")):
        small(tmp_path / "small.st", norm, tie, "sinusoidal")
        for column in ("`--to` x2", "`--to` other", "inner other", "context"):
            said.append(check_cell(tmp_path, method, COLUMNS[column][-1], monkeypatch))
    assert "exact" in said


@pytest.mark.slow
@pytest.mark.parametrize("method", OPERATORS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("tie", TIES)
def test_every_cell_of_the_table_holds(
    method: str, norm: str, tie: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_positions = []
    for positions in POSITIONS:
        small(tmp_path / "small.st", norm, tie, positions)
        said = [
            check_cell(tmp_path, method, change, monkeypatch)
            for changes in COLUMNS.values()
            for change in changes
        ]
        by_positions.append(said)
    assert all(said == by_positions[0] for said in by_positions)  # the table leaves positions out


def test_the_readme_shows_the_table_of_conditions(tmp_path: Path) -> None:
    table = conditions(tmp_path)
    assert table in (ROOT / "README.md").read_text(), f"the table is now:\n{table}"
