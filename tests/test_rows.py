from typing import Any

import pytest
from matplotlib.figure import Figure

from xtool import averages, rows
from xtool.errors import UsageError, XtoolError
from xtool.plots._draw import request
from xtool.plots.curves import curves
from xtool.plots.loops import loops

ONE = rows.row(
    label="a,b", metric="accuracy", value=0.5, low=0.25, high=0.75, seed=0, split="dev", loops=3
)
TWO = rows.row(label="c", metric="accuracy", value=1.0, seed=1, split="dev", loops=3, text="x")


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_rows_read_back_as_they_were_written(form: str) -> None:
    back = rows.read(rows.render([ONE, TWO], form), "x")
    assert [{k: v for k, v in r.items() if v is not None} for r in back] == [
        {k: v for k, v in r.items() if v is not None} for r in (ONE, TWO)
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no rows"),
        ('{"metric": "a"}', "row 1"),
        ("{", "line 1 is not JSON"),
        ("a,b\n1,2\n", "row 1"),
        ("metric,value\nx,1,2\n", "more cells"),
        ("metric,value\nx,one\n", "row 1"),
        ("metric,value\n", "no rows"),
        ("metric,value\nx,nan\n", "finite number"),
        ("metric,value,value\nx,1,2\n", "column twice"),
        ("metric,value,low,high\nx,1,3,2\n", "is above"),
        ("metric,value,step\nx,1,y\n", "`step` must be"),
        ('{"metric": "a", "value": true}', "`value` must be"),
        ('{"metric": "a", "value": 1, "value": 2}', "twice"),
        ('{"metric": "a", "value": 1, "label": []}', "`label` must be text"),
        ('{"metric": "a", "value": 1, "far": 1' + "0" * 400 + "}", "`far` must be a finite number"),
        ("metric,value,far\na,1,1e999\n", "`far` must be a finite number"),
        ("{" * 5000, "nested too deeply|not JSON"),
    ],
)
def test_malformed_rows_are_refused(text: str, message: str) -> None:
    with pytest.raises(XtoolError, match=message):
        rows.read(text, "x")


def test_the_baseline_in_a_figure_is_that_of_its_split() -> None:
    def evaluated(split: str, value: float, **more: Any) -> list[rows.Row]:
        common = {"label": "a", "split": split, **more}
        score = rows.row(metric="accuracy", value=0.9, **common)
        return [score, rows.row(metric="majority", value=value, **common)]

    both = evaluated("train", 0.5) + evaluated("dev", 0.75)
    (drawn,) = request(both, "bars", None, None, None).baselines
    assert drawn
    assert (drawn["split"], drawn["value"]) == ("dev", 0.75)
    assert request(both, "bars", None, None, "split").baselines == []
    seeds = evaluated("dev", 0.75, seed=0) + evaluated("dev", 0.75, seed=1)
    assert request(seeds, "bars", None, None, None).baselines == [seeds[1]]
    other = [*both, *evaluated("dev", 0.25, seed=1)]
    assert request(other, "bars", None, None, None).baselines == []


def test_select_keeps_what_matches_and_names_what_there_is() -> None:
    assert rows.select([ONE, TWO], ["seed=1"]) == [TWO]
    with pytest.raises(XtoolError) as error:
        rows.select([ONE, TWO], ["split=test"])
    assert "dev" in error.value.hint
    with pytest.raises(UsageError):
        rows.select([ONE], ["splitt=dev"])


def test_seeds_are_averaged_with_a_t_interval_that_stays_a_fraction() -> None:
    many = [
        rows.row(label="m", metric="accuracy", value=v, seed=s, flops=10)
        for s, v in enumerate([0.9, 1.0, 0.95])
    ]
    (mean,) = averages.average(many, "seed")
    assert mean["value"] == pytest.approx(0.95)
    assert mean["low"] == pytest.approx(0.95 - 4.30265 * 0.05 / 3**0.5, abs=1e-4)
    assert mean["high"] == 1.0
    assert mean["sd"] == pytest.approx(0.05)
    assert (mean["n"], mean["flops"], mean["seed"]) == (3, 10, None)


@pytest.mark.parametrize("over", ["seed", "replica"])
def test_replicas_of_one_file_are_averaged_as_seeds(over: str) -> None:
    many = [run("m", 5 + r, v) | {"replica": r, "digest": "d"} for r, v in enumerate([0.2, 0.4])]
    (mean,) = averages.average(many, over)
    assert (mean["n"], mean["value"]) == (2, pytest.approx(0.3))
    with pytest.raises(UsageError, match="twice"):
        averages.average([*many, many[0]], over)


def test_a_pivot_shows_differences_from_the_first_column() -> None:
    table = [
        rows.row(label="a", metric="accuracy", value=v, split="dev", size=s)
        for s, v in ((16, 0.5), (32, 0.75))
    ]
    lines, columns = averages.pivot(table, "label", "size")
    assert columns == ["label", "16", "32", "32 - 16"]
    assert lines[0]["32 - 16"] == "+0.2500"


def test_a_pivot_refuses_to_mix_metrics() -> None:
    mixed = [ONE, rows.row(label="a", metric="loss", value=1.0, split="dev")]
    with pytest.raises(UsageError, match="several values of `metric`"):
        averages.pivot(mixed, "label", "seed")


def test_a_pivot_refuses_to_mix_sizes_and_steps() -> None:
    mixed = [run("a", 0, 0.5) | {"size": size} for size in ("8", "16")]
    with pytest.raises(UsageError, match="`size` 16 and 8 would be averaged"):
        averages.pivot(mixed, "label", "split")
    journal = [run("a", 0, 0.5) | {"step": step} for step in (10, 20)]
    with pytest.raises(UsageError, match="`a` at step 10 and at 20 would be averaged"):
        averages.pivot(journal, "label", "split")


@pytest.mark.parametrize("place", averages.PLACES)
def test_parts_of_a_model_are_not_averaged_in_silence(place: str) -> None:
    mixed = [run("a", 0, value) | {place: str(value)} for value in (1, 2)]
    with pytest.raises(UsageError, match=f"`{place}` 1 and 2 would be averaged"):
        averages.summarise(mixed, ["label"])
    (found,) = averages.summarise(mixed, ["label"], over=[place]).values()
    assert (found.value, len(averages.summarise(mixed, ["label", place]))) == (1.5, 2)


def test_runs_that_ended_at_steps_of_their_own_are_averaged() -> None:
    ends = [run("a", s, 0.5) | {"digest": str(s), "step": 10 * s, "more": [s > 9]} for s in (1, 2)]
    (mean,) = averages.average(ends, "seed")
    assert (mean["n"], mean["step"], mean["more"]) == (2, 15, [False])
    # A seed that is there twice has models of two lengths, which every seed must have.
    more = [{**one, "digest": one["digest"] + "+", "step": 5} for one in ends]
    with pytest.raises(UsageError, match="has several models of a seed"):
        averages.average([*ends, *more], "seed")
    found = averages.average([*({**one, "step": 9} for one in ends), *more], "seed")
    assert [(one["step"], one["n"]) for one in found] == [(9, 2), (5, 2)]
    # An exact method's rows stand beside each model, and are the same.
    exact = rows.row(label="least squares", metric="squared_error", value=0.1, low=0.0, high=0.2)
    one, other = averages.average([ends[0], exact, ends[1], dict(exact)], "seed")
    assert (one["n"], other) == (2, exact)
    (mean,) = averages.average([run("a", s, 1.0) for s in range(3)], "seed")
    assert (mean["low"], mean["high"]) == (1.0, 1.0)


def test_rows_of_two_formats_are_averaged() -> None:
    asked = [run("a", s, s / 4) | {"size": "16", "loops": 3, "arch": "gpt"} for s in range(4)]
    csv, jsonl = (rows.render(part, f) for part, f in ((asked[:2], "csv"), (asked[2:], "jsonl")))
    both = [*rows.read(csv, "a"), *rows.read(jsonl, "b")]
    (mean,) = averages.average(both, "seed")
    assert (mean["n"], mean["value"]) == (4, 0.375)


def test_a_value_with_a_comma_is_selected_whole() -> None:
    mixes = [run("small, 0.4", 0, 0.5) | {"size": size} for size in ("d_ff=64", "d_ff=64,128")]
    (one,) = rows.select(mixes, ["size=d_ff=64,128"])
    assert one["size"] == "d_ff=64,128"
    assert len(rows.select(mixes, ["label=small, 0.4"])) == 2


def test_groups_and_digests_of_a_csv_file_are_text() -> None:
    text = "metric,value,group,data\nx,1,01,123e99999999\n"
    (one,) = rows.read(text, "x")
    assert (one["group"], one["data"]) == ("01", "123e99999999")


def test_a_table_aligns_and_markdown_has_a_rule() -> None:
    head, rule, one, two = rows.render([ONE, TWO | {"metric": "loss"}], "table").splitlines()
    assert head.index("metric") == one.index("accuracy") == two.index("loss")
    assert rule.replace(" ", "") == "-" * rule.count("-")
    assert rows.render([ONE], "markdown").splitlines()[1].startswith("| ---")


def run(label: str, seed: int, value: float) -> rows.Row:
    return rows.row(label=label, seed=seed, value=value, metric="accuracy", split="dev")


def test_labels_are_compared_pair_by_pair() -> None:
    many = [run("a", seed, 0.1 * seed) for seed in range(3)]
    many += [run("b", seed, 0.1 * seed + 0.1 * (seed + 1)) for seed in range(3)]
    (found,) = averages.paired(many, "a", "seed")
    assert (found["label"], found["against"], found["n"]) == ("b", "a", 3)
    assert found["metric"] == "accuracy_difference"
    assert found["value"] == pytest.approx(0.2)
    assert found["p_value"] == pytest.approx(0.07418, abs=1e-5)
    with pytest.raises(UsageError, match="has no row of seed 3"):
        averages.paired([*many, run("b", 3, 0.0)], "a", "seed")
    with pytest.raises(UsageError, match="two rows of `a`"):
        averages.paired([*many, run("a", 0, 0.0)], "a", "seed")
    with pytest.raises(UsageError, match="two rows of `b`"):
        averages.paired([*many, run("b", 0, 0.0)], "a", "seed")
    with pytest.raises(UsageError, match="differ in `data`"):
        averages.paired([one | {"data": one["label"]} for one in many], "a", "seed")
    with pytest.raises(UsageError, match="unknown label"):
        averages.paired(many, "c", "seed")
    with pytest.raises(UsageError, match="rows of `a` have no `seed`"):
        averages.paired([one | {"seed": None} for one in many], "a", "seed")


def test_models_of_different_data_have_no_baseline_in_common() -> None:
    model = [run("a", 0, 0.5) | {"data": data} for data in ("x", "y")]
    line = run("a", 0, 0.2) | {"metric": "majority", "data": "x"}
    assert len(request([model[0], line], "bars", None, None, None).baselines) == 1
    assert request([*model, line], "bars", None, None, None).baselines == []


def test_lines_do_not_average_steps_but_where_one_run_goes_on() -> None:
    journal = [run("a", 0, 0.5) | {"step": s, "params": 9, "lineage_epoch": 1.0} for s in (1, 2)]
    axes = Figure().subplots()
    with pytest.raises(UsageError, match="at step 1 and at 2 would be averaged"):
        curves(axes, request(journal, "curves", "params", None, None))
    curves(axes, request(journal, "curves", "lineage_epoch", None, None))


def test_the_axis_of_errors_holds_intervals_and_baselines_that_are_near() -> None:
    error = {"metric": "squared_error", "arch": "gpt", "loops": 1, "n_loops": 1}
    seeds = [run("a", seed, value) | error for seed, value in enumerate((0.5, 1.5))]
    near, far = (run("a", 0, value) | {"metric": name} for name, value in
                 (("averaging", 20.0), ("nearest", 900.0)))  # fmt: skip
    asked = request([*seeds, near, far], "loops", None, "squared_error", None)
    axes = Figure().subplots()
    loops(axes, asked)
    high = averages.summarise(seeds, ["label"])[("a",)].high
    assert high is not None
    assert max(high, 20.0) < axes.get_ylim()[1] < 900


def test_seeds_are_compared_at_the_same_loops() -> None:
    many = [
        run(label, seed, value) | {"loops": loops}
        for label, seed, loops, value in (
            ("a", 0, 2, 0.1), ("a", 1, 2, 0.1), ("a", 0, 4, 0.3), ("a", 1, 4, 0.3),
            ("b", 0, 2, 0.2), ("b", 1, 2, 0.2), ("b", 0, 4, 0.5), ("b", 1, 4, 0.5),
        )
    ]  # fmt: skip
    found = averages.paired(many, "a", "seed")
    assert [(one["loops"], round(one["value"], 6)) for one in found] == [(2, 0.1), (4, 0.2)]
    with pytest.raises(UsageError, match="has no row of seed 0, loops 4 to pair"):
        averages.paired([*many[:2], *many[6:]], "a", "seed")


def test_sizes_are_the_same_in_every_format() -> None:
    a, b = ([run(label, seed, 0.1 * seed) | {"size": "16"} for seed in range(2)] for label in "ab")
    read = rows.read(rows.to_csv(b), "b.csv")
    assert [one["n"] for one in averages.paired([*a, *read], "a", "seed")] == [2]


def test_exact_methods_beside_the_models_are_not_compared() -> None:
    exact = rows.row(label="least squares", metric="accuracy", value=0.1, split="dev")
    many = [run(label, seed, 0.5) for label in "ab" for seed in range(2)]
    (found,) = averages.paired([*many, exact, dict(exact)], "a", "seed")
    assert (found["label"], found["n"]) == ("b", 2)


def test_a_number_is_selected_by_its_value() -> None:
    assert rows.select([ONE, TWO], ["loops=3.0", "seed=0,2"]) == [ONE]
