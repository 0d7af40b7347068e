"""In-context regression: read pairs (x, f(x)) of an unknown function f and predict its next value.

A prompt is x_1, y_1, ..., x_n, y_n, each a vector of `dims` numbers, y in the first one of its own;
at x_k a model predicts y_k from the k - 1 pairs before it (Garg et al., 2022, arXiv:2208.01066, as
trained by Yang et al., 2023, arXiv:2311.12424). Prompts to train on are drawn anew at every step,
on the device and in bulk; those to evaluate on are stored, with the squared error that each exact
method makes on them. A CSV file of numbers, the last column to be predicted, is a function too: a
prompt is some of its rows.

Errors are squared and divided by the variance of f, so predicting 0 has error 1.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from xtool.averages import exact
from xtool.corpora import Text
from xtool.dataset import LARGEST_EPOCH, Drawn, Split
from xtool.errors import UsageError, XtoolError
from xtool.header import Header
from xtool.seeds import derive
from xtool.tasks import Prepared, Shape, Task
from xtool.tasks._functions import FUNCTIONS, Prompts, function_of, variance_of
from xtool.tasks._solvers import errors_of
from xtool.tasks._table import parts_of
from xtool.tokenizers import Tokenizer

OPTIONS = [
    ("function", "linear|sparse|tree|relu", "linear", "what the points of a prompt lie on"),
    ("dims", "int", 10, "numbers a point"),
    ("points", "int", 31, "points a prompt"),
    ("noise", "float", 0.0, "standard deviation of what is added to each value"),
    ("nonzero", "int", 3, "dims that `sparse` reads"),
    ("depth", "int", 4, "of a `tree`"),
    ("hidden", "int", 100, "width of the two-layer network `relu`"),
    ("scale", "float", 1.0, "factor of the points"),
    ("skew", "float", 0.0, "the variance of x falls as 1/i^skew, in directions of each prompt"),
    ("dims_from", "int", None, "dims that training begins with, one more every `grow_every`"),
    ("points_from", "int", None, "points that training begins with, two more every `grow_every`"),
    ("grow_every", "int", 5000, "steps, see `dims_from` and `points_from`"),
    ("trees", "bool", False, "also a tree and boosted trees for each dev and test point: slow"),
    ("epoch_size", "int", 64000, "prompts that count as an epoch; they are drawn, not stored"),
    ("dev_size", "int", 1280, "prompts to choose by"),
    ("test_size", "int", 1280, "prompts to report on"),
]
CORPUS = "drawn"
DEFAULTS = {"epochs": 1, "lr": 1e-4, "schedule": "constant", "weight_decay": 0.0, "beta2": 0.999}
MOST = {"dims": 4096, "points": 4096, "depth": 12, "hidden": 1 << 16}
OPTIONAL = ("scale", "skew")  # which older files lack
RANGES = {"noise": (0.0, 1e6), "skew": (0.0, 20.0), "scale": (1e-6, 1e6)}
OWN = ("function", "dims", "points", "noise", "nonzero", "depth", "hidden", "scale", "skew")
CURRICULUM = ("dims_from", "points_from", "grow_every")
OF_FUNCTIONS = ("function", "dims", "nonzero", "depth", "hidden", "scale", "skew", *CURRICULUM)


class Regression:
    """The task; see the module.

    Args:
        variance: of the function's values.
    """

    metrics: tuple[str, ...] = ("squared_error", "loss")

    def __init__(self, variance: float = 1.0) -> None:
        self.variance = variance

    def of(self, header: Header) -> "Regression":
        """The task of a file, whose errors are over the variance of its function."""
        _require_task(header.task)
        return Regression(variance_of(header.task))

    def prepare(
        self, text: Text, dials: Mapping[str, Any], seed: int, tokenizer: Tokenizer | None = None
    ) -> Prepared:
        """Prompts to evaluate on, and what the others are drawn from.

        Raises:
            UsageError: a size outside its range, or a tokenizer.
            XtoolError: a CSV file with text, gaps, or too few rows.
        """
        if tokenizer is not None:
            raise UsageError("`regression` reads numbers, `--tokenizer-from` is for text")
        _check(dials)
        task = {name: dials[name] for name in OWN} | {"name": "regression"}
        if dials["dims_from"] or dials["points_from"]:
            task["curriculum"] = {name: dials[name] for name in CURRICULUM}
        task["sizes"] = {name: dials[f"{name}_size"] for name in ("epoch", "dev", "test")}
        rows: dict[str, Tensor | None] = dict.fromkeys(("train", "dev", "test"))
        if text.text:
            usual = {name: default for name, _, default, _ in OPTIONS}
            for name in OF_FUNCTIONS:
                if dials[name] != usual[name]:
                    flag = name.replace("_", "-")
                    raise UsageError(
                        f"`--{flag}` is of functions that are drawn, `{text.name}` is a table",
                        "leave it out: its columns are the dims, the last one the value",
                    )
            parts, task["scaling"] = parts_of(text, dials["points"], derive(seed, "rows"))
            task |= {"function": "rows", "dims": parts[0].shape[1] - 1}
            rows = dict(zip(rows, parts, strict=True))
        splits: dict[str, Split | Tensor] = {
            "train": Drawn.of(task["sizes"]["epoch"], rows["train"])
        }
        for name in ("dev", "test"):
            generator = torch.Generator().manual_seed(derive(seed, "prompts", name))
            found = function_of(task, rows[name])(task["sizes"][name], generator)
            inputs, targets = tokens(found)
            splits[name] = Split(inputs, targets, extra=errors_of(found, task, dials["trees"]))
        return Prepared(task, {}, splits)

    def prepare_lines(self, files: Mapping[str, Text], dials: Mapping[str, Any]) -> Prepared:
        """There are none."""
        raise UsageError("`regression` has no ready examples", "give a CSV file as the corpus")

    def shape(self, header: Header) -> Shape:
        """Vectors in, two positions a point, one number out."""
        _require_task(header.task)
        return Shape(None, 2 * header.task["points"], 1, header.task["dims"])

    def draw(
        self, header: Header, rows: Tensor | None, count: int, generator: torch.Generator, step: int
    ) -> tuple[Float[Tensor, "B T d"], Float[Tensor, "B n"]]:
        """Prompts to train on, on the generator's device; those of a curriculum grow."""
        task = header.task
        dims, points = task["dims"], task["points"]
        if plan := task.get("curriculum"):
            times = step // plan["grow_every"]
            dims = min(dims, (plan["dims_from"] or dims) + times)
            points = _points(task, times)
        return tokens(function_of({**task, "points": points}, rows, dims)(count, generator))

    def lengths(self, header: Header) -> list[tuple[int, int]]:
        """Two positions a point; a curriculum begins with fewer points."""
        task = header.task
        every = (task.get("curriculum") or {}).get("grow_every", 0)
        found = [(0, 2 * _points(task, 0))]
        while found[-1][1] < 2 * task["points"]:
            times = len(found)
            found.append((times * every, 2 * _points(task, times)))
        return found

    def loss(
        self, logits: Float[Tensor, "B T 1"], targets: Float[Tensor, "B n"]
    ) -> Float[Tensor, "B n"]:
        """The squared error at each point, (B, T, 1) and (B, n) -> (B, n).

        Raises:
            XtoolError: other numbers of points.
        """
        found = logits[:, ::2, 0]
        if found.shape != targets.shape:
            raise XtoolError(f"prompts of {found.shape[1]} points have {targets.shape[1]} targets")
        return (found - targets) ** 2

    def score(
        self, logits: Float[Tensor, "B T 1"], targets: Float[Tensor, "B n"]
    ) -> dict[str, Float64[Tensor, " B"]]:
        """The mean squared error of each prompt over the function's variance, and as it is."""
        error = self.loss(logits, targets).cpu().double().mean(1)
        return {"squared_error": error / self.variance, "loss": error}

    def by_examples(
        self, logits: Float[Tensor, "B T 1"], targets: Float[Tensor, "B n"]
    ) -> dict[str, Float64[Tensor, "B n"]]:
        """The squared error after 0, 1, ... pairs, over the function's variance."""
        return {"squared_error": self.loss(logits, targets).cpu().double() / self.variance}

    def baselines(self, train: Split, split: Split) -> dict[str, Float64[Tensor, " N"]]:
        """The mean squared error of each exact method that the file holds."""
        return {name: errors.double().mean(1) for name, errors in exact(split.extra).items()}

    def show(
        self, header: Header, inputs: Tensor, targets: Tensor, predictions: Tensor | None
    ) -> list[str]:
        """The values of each prompt's points, over what was predicted of each."""
        lines = []
        for place, values in enumerate(targets):
            lines.append("target " + _values(values))
            if predictions is not None:
                lines.append("model  " + _values(predictions[place, ::2]))
        return lines


def _points(task: Mapping[str, Any], times: int) -> int:
    """The points of a prompt after a curriculum has grown so many times."""
    first = (task.get("curriculum") or {}).get("points_from")
    return int(min(task["points"], (first or task["points"]) + 2 * times))


def _values(values: Float[Tensor, " n"]) -> str:
    return " ".join(f"{value:6.2f}" for value in values.tolist())


def tokens(found: Prompts) -> tuple[Float[Tensor, "B T d"], Float[Tensor, "B n"]]:
    """Points and values in turn, as vectors; and the values."""
    x, y = found
    values = torch.zeros_like(x)
    values[..., 0] = y
    return torch.stack([x, values], 2).flatten(1, 2), y  # (B, 2n, d)


def _check(dials: Mapping[str, Any]) -> None:
    for name, most in MOST.items():
        if not 1 <= dials[name] <= most:
            raise UsageError(f"`--{name}` is {dials[name]}, it must be 1 to {most}")
    if dials["function"] == "sparse" and not 1 <= dials["nonzero"] <= dials["dims"]:
        raise UsageError(
            f"`--nonzero` is {dials['nonzero']}, it must be 1 to `--dims` ({dials['dims']})"
        )
    for name, (low, high) in RANGES.items():
        if not low <= dials[name] <= high:
            raise UsageError(f"`--{name}` is {dials[name]}, it must be {low:g} to {high:g}")
    for name, whole in (("dims_from", "dims"), ("points_from", "points")):
        if dials[name] is not None and not 1 <= dials[name] <= dials[whole]:
            flag = name.replace("_", "-")
            raise UsageError(
                f"`--{flag}` is {dials[name]}, it must be 1 to `--{whole}` ({dials[whole]})"
            )
    for name in ("epoch_size", "dev_size", "test_size", "grow_every"):
        if dials[name] < 1:
            flag = name.replace("_", "-")
            raise UsageError(f"`--{flag}` is {dials[name]}, it must be at least 1")
    if dials["epoch_size"] > LARGEST_EPOCH:
        raise UsageError(
            f"`--epoch-size` is {dials['epoch_size']}, it must be at most {LARGEST_EPOCH}"
        )


def _require_task(task: Mapping[str, Any]) -> None:
    """Raise XtoolError unless a header's task has what `prepare` writes, within the same limits."""
    sizes, growing = task.get("sizes") or {}, task.get("curriculum") or {}
    parts = [
        name for name, part in (("sizes", sizes), ("curriculum", growing)) if type(part) is not dict
    ]
    dials: dict[str, Any] = {name: default for name, _, default, _ in OPTIONS}
    if not parts:
        dials |= {name: task.get(name) for name in OWN if name in task or name not in OPTIONAL}
        dials |= growing | {f"{name}_size": size for name, size in sizes.items()}
    wrong = parts + [name for name, value in dials.items() if not _possible(name, value)]
    if wrong:
        raise XtoolError(
            f"the header's regression task lacks its `{wrong[0][:40]}`, or its kind is wrong"
        )
    if dials["function"] == "rows":
        dials["dims"] = min(dials["dims"], MOST["dims"])  # a table has as many columns as it has
    try:
        _check(dials)
    except UsageError as error:
        raise XtoolError(f"the header's regression task: {error.message}") from error


def _possible(name: str, value: object) -> bool:
    """Whether a dial may have a value of this type."""
    if name == "function":
        return value in (*FUNCTIONS, "rows")
    kinds = {option: kind for option, kind, _, _ in OPTIONS}
    types = {"int": (int,), "float": (int, float), "bool": (bool,)}.get(kinds.get(name, ""), ())
    return type(value) in types or (value is None and name in ("dims_from", "points_from"))


ENTRY: Task = Regression()
