"""Token vectors of nested models: their cosines, their tree, and pictures in which all is read."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run, configuration, page_data
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.text import Text

from xtool import registry, rows
from xtool.analysis.tokens import cosines, levels_of
from xtool.archs import build, canonical, start, stored_names
from xtool.axes import layout
from xtool.checkpoint import load, save
from xtool.header import Header
from xtool.plots import _draw
from xtool.plots._levels import Levels, ordered
from xtool.plots._linkage import clusters, cut_height, leaf_order, linkage
from xtool.plots.pairs import parse
from xtool.tasks import Shape
from xtool.tokenizers._names import token_names
from xtool.tokenizers.byte import ByteTokenizer
from xtool.tokenizers.char import CharTokenizer

ALPHABET = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def write_nested(path: Path, alphabet: str = ALPHABET, nest: str = "d_model=4,8") -> None:
    """A small nested model of characters, of first values."""
    size = len(alphabet)
    dials = {"d_model": 16, "n_heads": 4, "n_layers": 1, "nest": nest}
    config = configuration("gpt", Shape(size, 8, size), **dials)
    config["nest"] = canonical(config)
    model, ours = build(config), layout(config)
    start(model, ours, 0)
    state = model.state_dict()
    header = Header(kind="model", config=config, tokenizer=CharTokenizer(alphabet).header())
    save(path, header, {name: state[name] for name in stored_names(model, ours)})


def token_rows(names: list[str], levels: int = 1, seed: int = 0) -> list[rows.Row]:
    """Rows of pairs of tokens whose vectors are drawn in a few clumps."""
    draw = np.random.default_rng(seed)
    table = draw.normal(size=(5, 32))[draw.integers(5, size=len(names))]
    table = torch.tensor(table + 0.7 * draw.normal(size=table.shape))
    found = []
    for width in [32 >> level for level in range(levels)][::-1]:
        values = cosines(table[:, :width]).tolist()
        columns = {"label": "m", "metric": "cosine", "size": str(width), "width": width}
        for i, name in enumerate(names):
            for j in range(i + 1, len(names)):
                pair = {"token": name, "other": names[j], "index": i, "other_index": j}
                found.append(rows.row(**columns, **pair, value=values[i][j]))
    return found


def test_rows_are_the_cosines_of_prefixes(xtool: Run, tmp_path: Path) -> None:
    write_nested(tmp_path / "m.st")
    done = xtool("inspect", "m.st", "--tokens", "--format", "csv")
    assert done.code == 0, done.err
    found = rows.read(done.out, "x")
    assert len(found) == 3 * 65 * 64 // 2
    table = load(tmp_path / "m.st")[1]["embed.weight"].double()
    names = token_names(CharTokenizer(ALPHABET), 65)
    assert [one["width"] for one in found[:: 65 * 32]] == [4, 8, 16]
    for one in found[::97]:
        i, j, width = one["index"], one["other_index"], one["width"]
        assert (one["token"], one["other"], one["size"]) == (names[i], names[j], str(width))
        direct = torch.nn.functional.cosine_similarity(table[i, :width], table[j, :width], dim=0)
        assert one["value"] == pytest.approx(float(direct), abs=1e-12)
    assert {"3", "⏎", "␣"} <= {one["token"] for one in found}


def test_levels_are_the_nested_widths_and_the_whole() -> None:
    def of(nest: str | None) -> list[tuple[str, int]]:
        config = configuration("gpt", Shape(9, 8, 9), d_model=16, n_heads=2, nest=nest)
        return levels_of(config | {"nest": canonical(config)})

    assert of(None) == [("16", 16)]
    assert of("d_ff=16") == [("16", 16)]
    assert of("head=4,8") == [("head=4", 4), ("head=8", 8), ("head=16", 16)]
    grid = configuration("gpt", Shape(9, 8, 9), d_model=16, n_heads=2, n_layers=2)
    assert levels_of(grid | {"nest": "d_model=8,16 d_ff=32,64"}) == [("8", 8), ("16", 16)]


def test_too_many_tokens_are_refused(xtool: Run, tmp_path: Path) -> None:
    write_nested(tmp_path / "m.st", "".join(map(chr, range(500, 1100))))
    done = xtool("inspect", "m.st", "--tokens")
    assert done.code == 1
    assert "has 600 tokens" in done.err
    assert "--vocab-size" in done.err


class Same:
    """Tokens that look alike, or like a number's name, or like nothing."""

    TEXTS = ("␣", " ", "#1", "\x07", "", "a\u0301", "\N{REPLACEMENT CHARACTER}", "the")
    size = len(TEXTS)

    def header(self) -> dict[str, Any]:
        return {}

    def encode(self, text: str) -> torch.Tensor:
        return torch.empty(0)

    def decode(self, symbols: torch.Tensor) -> str:
        return self.TEXTS[int(symbols[0])]


def test_names_are_unique_and_show_white_space() -> None:
    byte = token_names(ByteTokenizer(), 256)
    assert len({*byte}) == 256
    assert (byte[10], byte[32], byte[9], byte[13], byte[65]) == ("⏎", "␣", "⇥", "↵", "A")
    assert (byte[7], byte[200]) == ("#7", "#200")
    assert not any(c.isspace() for name in byte for c in name)
    assert token_names(Same(), 9) == ["␣", "#1", "#2", "#3", "#4", "#5", "#6", "the", "#8"]


def test_average_linkage_is_that_of_scikit_learn() -> None:
    cluster = pytest.importorskip("sklearn.cluster")
    points = np.random.default_rng(0).normal(size=(40, 5))
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    theirs = cluster.AgglomerativeClustering(
        n_clusters=None, distance_threshold=0, metric="precomputed", linkage="average"
    ).fit(distances)
    ours = linkage(distances)
    assert [merge.height for merge in ours] == pytest.approx(list(theirs.distances_))
    for merge, pair in zip(ours, theirs.children_, strict=True):
        assert {merge.first, merge.second} == {*pair}


@pytest.mark.parametrize("n", [2, 3, 65])
def test_the_leaf_order_is_a_permutation_that_keeps_clusters_together(n: int) -> None:
    points = np.random.default_rng(n).normal(size=(n, 3))
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    merges = linkage(distances)
    order = leaf_order(merges, distances)
    assert sorted(order) == list(range(n))
    for height in (0.0, *(merge.height for merge in merges)):
        owner = clusters(merges, height)
        along = [owner[leaf] for leaf in order]
        assert 1 + sum(a != b for a, b in pairwise(along)) == len({*along})
    assert len({*clusters(merges, cut_height(merges))}) in range(min(n, 3), 13)


def test_given_groups_come_before_the_tree() -> None:
    found = cosines(torch.randn(6, 4, generator=torch.Generator().manual_seed(0))).numpy()
    order, runs = ordered(Levels("m", [*"abcdef"], [*"xyxyzx"], {"4": found}))
    assert sorted(order) == list(range(6))
    assert [(run.start, run.stop, run.name) for run in runs] == [
        (0, 3, "x"),
        (3, 5, "y"),
        (5, 6, "z"),
    ]
    assert {*order[:3]} == {0, 2, 5}


def drawn(found: list[rows.Row], kind: str, title: str = "A title") -> Figure:
    """A figure as `plot` makes it, without a file."""
    kept: list[Figure] = []

    def keep(figure: Figure, *_: object) -> bytes:
        kept.append(figure)
        return b""

    with pytest.MonkeyPatch.context() as patch, rc_context(_draw.STYLE):
        patch.setattr(_draw, "_bytes", keep)
        _draw.draw(_draw.request(found, kind, None, None, None), kind, title, Path("x.png"))
    return kept[0]


def overlaps(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts that overlap as they are drawn, and texts that leave the page."""
    boxes: list[Any] = []
    names: list[str] = []
    own = Text.draw

    def note(self: Text, renderer: Any) -> None:
        own(self, renderer)
        if self.get_visible() and self.get_text():
            names.append(self.get_text())
            boxes.append(self.get_window_extent(renderer).extents)

    with pytest.MonkeyPatch.context() as patch, rc_context(_draw.STYLE):
        patch.setattr(Text, "draw", note)
        figure.draw_without_rendering()
    width, height = figure.bbox.size
    x0, y0, x1, y1 = np.array(boxes).T
    out = (x0 < 0) | (y0 < 0) | (x1 > width) | (y1 > height)
    slack = 0.5  # pixels
    x = np.minimum(x1[:, None], x1) - np.maximum(x0[:, None], x0) > slack
    y = np.minimum(y1[:, None], y1) - np.maximum(y0[:, None], y0) > slack
    met = [(names[i], names[j]) for i, j in np.argwhere(np.triu(x & y, 1))]
    return met + [(names[i], "page") for i in np.flatnonzero(out)]


def labelled(figure: Figure, names: Iterable[str]) -> bool:
    """Whether every token stands in the picture."""
    return {*names} <= {t.get_text() for t in figure.findobj(Text) if isinstance(t, Text)}


@pytest.mark.parametrize("kind", ["similarity", "dendrogram"])
@pytest.mark.parametrize("number", [5, 65, 256])
def test_every_token_is_labelled_and_no_text_meets_another(
    kind: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = token_names(ByteTokenizer(), 256)
    names = token_names(CharTokenizer(ALPHABET), 65)[:number] if number < 256 else names
    figure = drawn(token_rows(names, levels=2 if number == 65 else 1), kind)
    assert overlaps(figure) == []
    assert labelled(figure, names)


@pytest.mark.parametrize("kind", ["similarity", "dendrogram"])
def test_names_of_groups_have_their_room(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = token_names(CharTokenizer(ALPHABET), 65)
    group = {name: "capital letters" if name.isupper() else "others" for name in names}
    group |= {"⏎": "line", "␣": "space", "3": "a single digit"}
    found = [
        one | {"group": group[one["token"]], "other_group": group[one["other"]]}
        for one in token_rows(names)
    ]
    figure = drawn(found, kind)
    assert overlaps(figure) == []
    if kind == "similarity":
        assert labelled(figure, {*group.values()})


def test_pairs_are_read_with_signs_and_white_space() -> None:
    assert parse("a~b,a~A,a~.") == [("a", "b"), ("a", "A"), ("a", ".")]
    assert parse(",~a,a~,,a~~,~~b, ~\n") == [
        (",", "a"), ("a", ","), ("a", "~"), ("~", "b"), ("␣", "⏎"),
    ]  # fmt: skip
    assert parse("␣the~#12") == [("␣the", "#12")]


def test_pairs_of_several_seeds_are_averaged_with_a_band() -> None:
    found = [
        one | {"seed": seed, "label": f"m{seed}", "value": one["value"] + shift}
        for seed, shift in enumerate((-0.1, 0.0, 0.1))
        for one in token_rows([*"abcd"], levels=3)
    ]
    asked = replace(_draw.request(found, "pairs", None, None, None), pairs="b~a,c~d")
    axes = Figure().subplots()
    registry.load("plots", "pairs")(axes, asked)
    assert [line.get_label() for line in axes.lines] == ["b ~ a", "c ~ d"]
    middle = [one for one in found if one["seed"] == 1 and one["token"] + one["other"] == "ab"]
    assert list(axes.lines[0].get_ydata()) == pytest.approx([one["value"] for one in middle])
    assert list(axes.lines[0].get_xdata()) == [8, 16, 32]
    assert len(axes.collections) == 2


def size_rows() -> list[rows.Row]:
    found = []
    for label, arch in (("nested", "matryoshka"), ("twin", "gpt"), ("cut", "gpt")):
        for size, params in ((16, 14496), (32, 53568), (64, 206592)):
            for seed in range(3):
                value = {"nested": 2.4, "twin": 2.5, "cut": 4.0}[label] - size / 100 + seed / 50
                own = {"label": label, "arch": arch, "seed": seed, "size": size, "split": "dev"}
                found.append(rows.row(metric="loss", value=value, params=params, **own))
    return found


def test_sizes_are_labelled_lines_with_bars(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    figure = drawn(size_rows(), "sizes")
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == [
        "16\n(14.5k)", "32\n(53.6k)", "64\n(207k)",
    ]  # fmt: skip
    assert len(axes.containers) == 3
    assert overlaps(figure) == []


def test_groups_of_a_category_file_stand_in_the_rows(xtool: Run, tmp_path: Path) -> None:
    tokenizer = CharTokenizer("\naAb").header()
    config = configuration(shape=Shape(4, 12, 4), tied_head=True, nest="head=2")
    config["nest"] = canonical(config)
    model = build(config)
    start(model, layout(config), 0)
    state = model.state_dict()
    header = Header(kind="model", config=config, tokenizer=tokenizer)
    save(tmp_path / "m.st", header, {n: state[n] for n in stored_names(model, layout(config))})
    (tmp_path / "c.toml").write_text('[levels.2]\nA = ["a", "A"]\n[levels.8]\nx = ["a", "b"]\n')
    args = ["inspect", "m.st", "--tokens", "--format", "jsonl"]
    done = xtool(*args, "--groups", "c.toml:2")
    assert done.code == 0, done.err
    found = rows.read(done.out, "")
    assert {(r["token"], r.get("group")) for r in found} == {("⏎", None), ("A", "A"), ("a", "A")}
    assert {r.get("other_group") for r in found if r["other"] == "b"} == {None}
    done = xtool(*args, "--groups", "c.toml")
    assert (done.code, "one of 2, 8" in done.err) == (2, True)
    assert "no level 4" in xtool(*args, "--groups", "c.toml:4").err
    assert "C:\\x.toml: no such file" in xtool(*args, "--groups", "C:\\x.toml").err
    assert "is for `--tokens`" in xtool("inspect", "m.st", "--groups", "c.toml").err


def test_each_kind_draws_in_each_format(xtool: Run, tmp_path: Path) -> None:
    (tmp_path / "tokens.jsonl").write_text(rows.to_jsonl(token_rows([*"⏎␣abAB.", "中"], 2)))
    (tmp_path / "sizes.csv").write_text(rows.to_csv(size_rows()))
    for kind in ("similarity", "dendrogram", "pairs", "sizes"):
        source = "sizes.csv" if kind == "sizes" else "tokens.jsonl"
        more = ["--pairs", "a~b,a~A"] if kind == "pairs" else []
        for form in ("png", "svg", "html", "pdf"):
            done = xtool("plot", source, "--kind", kind, *more, "-o", f"{kind}.{form}")
            assert (done.code, done.out) == (0, f"{kind}.{form}\n"), done.err
        page = (tmp_path / f"{kind}.html").read_text()
        assert "<svg" in page
        if kind in ("similarity", "dendrogram"):
            assert all(f">{name}<" in page for name in [*"⏎␣abAB.", "#7"])
        if kind == "similarity":
            (cells,) = (p["matrix"] for p in page_data(page)["panels"][:1])
            assert sorted(cells["rows"]) == sorted([*"⏎␣abAB.", "#7"])
            assert cells["columns"] == cells["rows"]
            assert all(line[n] == 1 for n, line in enumerate(cells["values"]))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--kind", "pairs", "--pairs", "a~z"], "unknown token `z`"),
        (["--kind", "pairs", "--pairs", "a"], "is no list of pairs"),
        (["--kind", "pairs", "--pairs", "a~a"], "names one token twice"),
        (["--kind", "similarity", "--pairs", "a~b"], "is for `--kind pairs`"),
        (["--kind", "similarity", "--where", "token=a"], "has no rows for some pairs"),
    ],
)
def test_wrong_requests_are_told(args: list[str], said: str, xtool: Run, tmp_path: Path) -> None:
    (tmp_path / "tokens.jsonl").write_text(rows.to_jsonl(token_rows([*"abc"])))
    done = xtool("plot", "tokens.jsonl", *args, "-o", "x.svg")
    assert done.code != 0
    assert said in done.err
    assert not (tmp_path / "x.svg").exists()
