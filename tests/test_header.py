import pytest

from xtool.errors import XtoolError
from xtool.header import Header, canonical_json, read_header
from xtool.lineage import explain, step


def test_a_header_reads_back_from_its_canonical_text() -> None:
    header = Header(
        kind="model",
        config={"b": 1, "a": [1.5]},
        lineage=[step("train", {"lr": 1.0, "x": None}, {"data": "0" * 64}, 3)],
    )
    assert read_header(header.canonical(), "x") == header
    assert canonical_json({"b": 1, "a": "é"}) == '{"a":"\\u00e9","b":1}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ('{"kind":"data","kind":"model"}', "twice"),
        ('{"kind":"data","config":{"x":NaN}}', "NaN"),
        ('{"kind":"data","schema":2}', "schema 2"),
        ('{"kind":"other"}', "kind"),
        ('{"kind":"data","more":1}', "more"),
        ('{"kind":"data","digest":"xyz"}', "digest"),
    ],
)
def test_a_bad_header_is_refused(text: str, message: str) -> None:
    with pytest.raises(XtoolError, match=message):
        read_header(text, "x.st")


def test_lineage_prints_one_line_a_step() -> None:
    (line,) = explain([step("grow", {"method": "pad"}, {"model": "ab" * 32}, 7)])
    assert line == "1. grow method=pad seed=7 <- model:abababababab"
