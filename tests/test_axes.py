import pytest

from xtool.axes import Layout, explain, layout, parse
from xtool.errors import XtoolError


@pytest.mark.parametrize(
    "text", ["vocab", "<d_model", "=d_model", "3*n_heads*d_head", "<n_heads*d_head"]
)
def test_an_axis_prints_as_it_was_written(text: str) -> None:
    assert str(parse(text)) == text


@pytest.mark.parametrize("text", ["", "<", "D", "a**b", "a*", "0*a", "a b"])
def test_what_is_not_in_the_grammar_is_refused(text: str) -> None:
    with pytest.raises(XtoolError, match="not an axis"):
        parse(text)


def toy() -> Layout:
    table = {
        "blocks.{layer}.up": ("d_ff", "<d_model"),
        "qkv": ("<d_model", "3*n_heads*d_head"),
        "*": ("d_model",),
    }
    sizes = {"d_model": 8, "d_ff": [16, 24], "n_heads": 2, "d_head": 4}
    return Layout(config=sizes, table=table)


def test_the_first_pattern_that_matches_wins() -> None:
    assert explain(toy().axes("blocks.1.up")) == "d_ff x <d_model"
    assert explain(toy().axes("blocks.1.down")) == "d_model"


def test_a_size_that_differs_by_layer_is_bound_by_the_layer() -> None:
    assert toy().shape("blocks.0.up") == (16, 8)
    assert toy().shape("blocks.1.up") == (24, 8)


def test_a_fused_transposed_projection_needs_no_special_code() -> None:
    assert toy().shape("qkv") == (8, 24)


def test_a_wrong_shape_names_the_axis_and_both_numbers() -> None:
    with pytest.raises(XtoolError, match=r"axis `<d_model`: 9 in the file, 8 in the configuration"):
        toy().check("blocks.0.up", (16, 9), "x.st")


def test_a_name_without_axes_is_an_error() -> None:
    with pytest.raises(XtoolError, match="no axes"):
        Layout(config={}, table={"a": ("d_model",)}).axes("b")


def test_a_tied_tensor_has_both_of_its_roles() -> None:
    config = {"arch": "gpt", "tied_head": True, "d_model": 8, "vocab_size": 5, "n_outputs": 3}
    roles = layout(config).roles("embed.weight")
    assert [explain(axes) for axes in roles] == ["vocab x d_model", "n_outputs x <d_model"]
