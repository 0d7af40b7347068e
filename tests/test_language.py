"""The language task: running texts, tokens, windows, and a model's whole life on them."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Result, Run

from xtool import registry, rows
from xtool.archs import read_model
from xtool.checkpoint import load, save
from xtool.config import options, resolve
from xtool.corpora import text_of
from xtool.dataset import Split, read_dataset, windows
from xtool.errors import UsageError, XtoolError
from xtool.evaluation import score
from xtool.header import Header
from xtool.plots._draw import request
from xtool.seeds import derive
from xtool.storage import Source
from xtool.surgery.operators import learned
from xtool.tasks import Shape, fitted, make_data, open_data, task_of
from xtool.tasks.language import ENTRY as TASK
from xtool.tokenizers import bpe, fit, restore
from xtool.training import loop
from xtool.training.batches import Batches

PROSE = (
    "Ω says: “naïve 日本” costs 3 €;\n\tthe quick brown fox\r\njumps over the lazy dog.\n\n" * 30
)
TINY = [
    "--d-model", 8, "--n-heads", 2, "--n-layers", 1, "--context", 8, "--batch-size", 8,
    "--lr", 0.01, "--threads", 1, "--quiet",
]  # fmt: skip


def prepare(path: Path, text: str = PROSE, **dials: Any) -> Path:
    """A data file of a text."""
    (path.parent / "text.txt").write_bytes(text.encode())
    given = resolve(options("tasks", "language"), [("test", dials)])
    make_data(path, "language", str(path.parent / "text.txt"), {}, given, 0)
    return path


@pytest.fixture
def book(tmp_path: Path) -> Path:
    return prepare(tmp_path / "book.st")


def found(done: Result) -> dict[str, dict[str, Any]]:
    assert done.code == 0, done.err
    return {one["metric"]: one for one in rows.read(done.out, "x")}


@pytest.mark.parametrize("tokenizer", registry.names("tokenizers"))
def test_tokens_are_the_text(tokenizer: str, tmp_path: Path) -> None:
    data = open_data(
        prepare(tmp_path / "book.st", tokenizer=tokenizer, dev_fraction=0.2, test_fraction=0.1)
    )
    again = restore(data.header.tokenizer)
    text = text_of("x", PROSE.encode()).text
    parts = {name: again.decode(tokens) for name, tokens in data.splits.items()}
    assert "".join(parts.values()) == text
    assert list(parts) == ["train", "dev", "test"]
    assert len(parts["dev"]) == round(0.2 * len(text))
    assert TASK.shape(data.header) == Shape(again.size, None, again.size)
    for name, part in parts.items():
        assert data.header.task["tokens"][name] == len(data.splits[name])
        assert data.header.task["characters"][name] == len(part)
        assert data.header.task["bytes"][name] == len(part.encode())


def test_tokens_take_one_byte_up_to_256_symbols() -> None:
    small, large = ("".join(map(chr, range(1000, 1000 + n))) for n in (256, 257))
    assert fit("char", {"train": small}).encode(small).tolist() == list(range(256))
    assert fit("char", {"train": small}).encode(small).dtype == torch.uint8
    assert fit("char", {"train": large}).encode(large).tolist() == list(range(257))
    assert fit("char", {"train": large}).encode(large).dtype == torch.int32
    assert fit("byte", {"train": large}).encode(large).dtype == torch.uint8
    with pytest.raises(XtoolError, match=r"'a' \(column 2\) is not in the alphabet of 256"):
        fit("char", {"train": small}).encode(small[0] + "ab")


@pytest.mark.parametrize(("length", "context"), [(1001, 10), (1007, 10), (40, 30), (9, 8), (50, 1)])
def test_windows_are_views_that_cover_the_text(length: int, context: int) -> None:
    tokens = torch.arange(length)
    split = windows(tokens, context, {})
    assert split.inputs.data_ptr() == tokens.data_ptr()
    assert len(split) == (length - 1) // context
    assert split.inputs.flatten().tolist() == list(range(len(split) * context))
    assert torch.equal(split.targets, split.inputs + 1)
    inputs, targets = split.pool(torch.device("cpu"))
    assert inputs.data_ptr() == tokens.data_ptr()
    assert torch.equal(targets, inputs + 1)
    firsts = set()
    for epoch in range(200):
        order = split.order(torch.Generator().manual_seed(epoch))
        places = order.sort().values
        assert len(order) == len(split)
        seen = inputs[order].flatten().unique()
        assert length - 1 - len(seen) < context
        assert bool((places[1:-1].diff() == context).all())
        assert int(places[-1]) + context < length
        firsts.add(int(places[0]))
    assert firsts == set(range(min(context, length - context)))


def test_examples_keep_their_order_of_old() -> None:
    one = Split(torch.arange(30).view(10, 3), torch.zeros(10, 3))
    order = one.order(torch.Generator().manual_seed(5))
    assert torch.equal(order, torch.randperm(10, generator=torch.Generator().manual_seed(5)))
    assert one.pool(torch.device("cpu"))[0] is one.inputs


def test_a_run_sees_the_windows_of_its_seed_and_epoch(
    book: Path, xtool: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    taken = Batches.rows

    def watched(self: Batches, step: int) -> torch.Tensor:
        (found,) = taken(self, step)
        seen.append(self.inputs[found])
        return found[None]

    monkeypatch.setattr(Batches, "rows", watched)
    args = [*TINY, "--batch-size", 40, "--epochs", 2, "--seed", 3]
    assert xtool("train", book, *args, "-o", "m.st").code == 0
    split = open_data(book).cut(8).split("train")
    assert sum(map(len, seen)) == 2 * len(split)
    for epoch in (0, 1):
        order = split.order(torch.Generator().manual_seed(derive(3, "order", 0, epoch)))
        here = torch.cat(seen)[epoch * len(split) :][: len(split)]
        assert torch.equal(here, split.pool(torch.device("cpu"))[0][order])
    assert not torch.equal(torch.cat(seen)[: len(split)].sort(0)[0], here.sort(0)[0])


@pytest.fixture
def model(book: Path, xtool: Run) -> Path:
    assert xtool("train", book, *TINY, "--steps", 40, "-o", "lm.st").code == 0
    return book.with_name("lm.st")


def test_the_loss_is_that_of_torch_on_the_text(model: Path, book: Path, xtool: Run) -> None:
    values = found(xtool("evaluate", model, "--format", "jsonl"))
    header, _, built = read_model(model)
    dev = read_dataset(book).splits["dev"]
    assert isinstance(dev, torch.Tensor)
    count = (len(dev) - 1) // 8
    places = [range(8 * i, 8 * i + 8) for i in range(count)]
    with torch.no_grad():
        logits = torch.cat([built.eval()(dev[list(p)][None])[0] for p in places])  # (N, V)
    targets = dev[1 : 8 * count + 1].long()
    loss = torch.nn.functional.cross_entropy(logits, targets)
    assert values["loss"]["value"] == pytest.approx(float(loss), abs=1e-5)
    assert values["loss"]["n"] == count
    right = (logits.argmax(1) == targets).double().mean()
    assert values["accuracy"]["value"] == pytest.approx(float(right))
    assert values["bits_per_char"]["value"] == pytest.approx(values["loss"]["value"] / math.log(2))
    text = restore(header.tokenizer).decode(dev)
    each = len(text.encode()) / len(text)
    bits = values["bits_per_char"]["value"]
    assert each > 1
    assert values["bits_per_byte"]["value"] == pytest.approx(bits / each)
    assert values["bits_per_byte"]["low"] < bits / each < values["bits_per_byte"]["high"]


def test_bits_do_not_depend_on_the_tokenizer(tmp_path: Path) -> None:
    """A model that knows nothing says log2(symbols) bits a token, whatever a token is."""
    bits = {}
    for tokenizer in ("char", "byte"):
        data = open_data(prepare(tmp_path / "b.st", tokenizer=tokenizer)).cut(4)
        dev, size = data.split("dev"), TASK.shape(data.header).vocab_size

        class Uniform(torch.nn.Linear):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return torch.zeros(*x.shape, self.out_features)

        values = score.scores(Uniform(1, size), TASK, dev)
        named = {one["metric"] for one in score.score_rows(values)}
        assert named == set(score.metrics(TASK, dev))
        bits[tokenizer] = {name: float(v.mean()) / math.log2(size) for name, v in values.items()}
    assert bits["char"]["bits_per_char"] == pytest.approx(1)
    assert bits["byte"]["bits_per_byte"] == pytest.approx(1)
    each = bits["byte"]["bits_per_char"]
    assert bits["char"]["bits_per_byte"] == pytest.approx(1 / each)


def test_scores_do_not_depend_on_the_batch(
    model: Path, book: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header, _, built = read_model(model)
    dev = fitted(open_data(book), header, "x").split("dev")
    whole = score.scores(built, TASK, dev)
    monkeypatch.setattr(score, "POSITIONS", 24)
    parts = score.scores(built, TASK, dev)
    for name in whole:
        assert torch.allclose(whole[name], parts[name], atol=1e-6), name


def test_the_unigram_loss_is_the_entropy_of_frequencies() -> None:
    tokens = torch.tensor([0, 1, 0, 2, 0, 0, 1, 0, 3, 0, 0]).byte()
    split = windows(tokens, 5, {})
    values = TASK.baselines(split, split)
    targets = tokens[1:].long()
    counts = torch.bincount(targets).double() + 1
    expected = -(counts / counts.sum()).log()[targets].mean()
    assert float(values["unigram"].mean()) == pytest.approx(float(expected))
    pairs = [(0, 1), (1, 0), (0, 2), (2, 0), (0, 0), (0, 1), (1, 0), (0, 3), (3, 0), (0, 0)]
    chance = [(pairs.count(p) + 1) / (sum(a == p[0] for a, _ in pairs) + 4) for p in pairs]
    expected = sum(-math.log(one) for one in chance) / 10
    assert float(values["bigram"].mean()) == pytest.approx(expected)
    assert float(values["majority"].mean()) == pytest.approx(float((targets == 0).double().mean()))


def test_a_token_that_only_begins_a_text_is_counted_for_too() -> None:
    split = windows(torch.tensor([9, 1, 0, 2, 0, 0, 1, 0, 3, 0, 0]).byte(), 5, {})
    assert torch.isfinite(TASK.baselines(split, split)["bigram"]).all()


def test_a_baseline_is_drawn_beside_its_own_metric(model: Path, xtool: Run) -> None:
    all_rows = rows.read(xtool("evaluate", model, "--format", "jsonl").out, "x")
    for metric, lines in (("loss", ["unigram", "bigram"]), ("accuracy", ["majority"])):
        asked = request(all_rows, "bars", None, metric, None)
        assert [one["metric"] for one in asked.baselines] == lines
    assert not request(all_rows, "bars", None, "bits_per_char", None).baselines


def test_a_stopped_run_resumes_to_the_same_bytes(
    book: Path, xtool: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ["train", book, *TINY, "--dropout", 0.1, "--epochs", 2, "--save-every", 7]
    assert xtool(*args, "-o", "whole.st", "--label", "x").code == 0
    step = loop._Loop._step

    def stopping(self: loop._Loop) -> None:
        if self.run.position.step == 40:
            raise KeyboardInterrupt
        step(self)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Loop, "_step", stopping)
        assert xtool(*args, "-o", "m.st", "--label", "x").code == 130
    other = [a if a != 8 or args[i - 1] != "--context" else 16 for i, a in enumerate(args)]
    done = xtool(*other, "--resume", "-o", "m.st", "--label", "x")
    assert "`context` is 8 there, 16 here" in done.err
    assert xtool(*args, "--resume", "-o", "m.st", "--label", "x").code == 0
    assert (tmp_path / "m.st").read_bytes() == (tmp_path / "whole.st").read_bytes()


def test_replicas_are_the_runs_made_alone(book: Path, xtool: Run, tmp_path: Path) -> None:
    args = ["train", book, *TINY, "--precision", "fp64", "--steps", 20]
    assert xtool(*args, "--seed", 4, "--replicas", 2, "-o", "r.st").code == 0
    for replica in (0, 1):
        assert xtool("slice", "r.st", "--replica", replica, "-o", "one.st", "--force").code == 0
        assert xtool(*args, "--seed", 4 + replica, "-o", "alone.st", "--force").code == 0
        one, alone = (read_model(tmp_path / f"{n}.st")[2].state_dict() for n in ("one", "alone"))
        for name in one:
            assert torch.allclose(one[name], alone[name], rtol=0, atol=1e-10), name


def test_growing_is_exact_and_keeps_every_score(model: Path, xtool: Run) -> None:
    done = xtool("grow", model, "--to", 16, "--data", "book.st", "-o", "g.st")
    assert done.code == 0, done.err
    assert "(exact)" in done.err
    ours, theirs = (found(xtool("evaluate", m, "--format", "jsonl")) for m in (model, "g.st"))
    for metric in ours:
        assert theirs[metric]["value"] == pytest.approx(ours[metric]["value"], abs=1e-5), metric


def test_a_longer_context_is_trained_and_evaluated_as_such(
    model: Path, book: Path, xtool: Run
) -> None:
    assert xtool("grow", model, "--context", 20, "-o", "long.st").code == 0
    dev = read_dataset(book).splits["dev"]
    values = found(xtool("evaluate", "long.st", "--format", "jsonl"))
    assert values["loss"]["n"] == (len(dev) - 1) // 20
    done = xtool("train", "--from", "long.st", "--steps", 2, "--threads", 1, "-o", "on.st")
    assert done.code == 0, done.err
    done = xtool("evaluate", model, "--against", "long.st")
    assert done.code == 1
    assert "`context` 8, long.st 20: their examples differ" in done.err
    similar = xtool("inspect", "--similarity", model, "long.st", "--format", "jsonl")
    assert [one["value"] for one in rows.read(similar.out, "x")] == [pytest.approx(1)] * 3


def test_a_race_and_a_fit_run_on_it(
    model: Path, book: Path, xtool: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ["--to", 16, "--context", 12, "--race-steps", 2, "--race-seeds", 2, "--threads", 1]
    names = ["clone", "pad", "random"]
    every = registry.names
    monkeypatch.setattr(registry, "names", lambda f: names if "operators" in f else every(f))
    done = xtool("grow", model, "--race", *args, "--data", book, "--format", "jsonl")
    assert done.code == 0, done.err
    assert {"scratch", "untrained"} < {one["label"] for one in rows.read(done.out, "x")}
    monkeypatch.setattr(registry, "names", every)
    monkeypatch.setattr(learned, "MEASURED", 10**6)
    fit_steps = ["--method", "learned", "--fit-steps", 0, "--fit-batch", 8, "--data", book]
    done = xtool("grow", model, "--to", 16, *fit_steps, "-o", "l.st")
    assert done.code == 0, done.err
    said = float(done.err.rpartition("training loss ")[2].split()[0])
    header, _, built = read_model(model)
    train = fitted(open_data(book), header, "x").split("train")
    assert said == pytest.approx(float(score.scores(built, TASK, train)["loss"].mean()), abs=1e-4)
    assert xtool("grow", model, "--to", 16, *fit_steps, "--fit-steps", 3, "-o", "f.st").code == 0


def test_a_metric_in_bits_can_be_reached(book: Path, xtool: Run) -> None:
    args = ["train", book, *TINY, "--epochs", 1]
    assert xtool(*args, "--reach", "bits_per_char=99", "-o", "m.st").code == 0
    written = rows.read(book.with_name("m.rows.jsonl").read_text(), "x")
    assert [one["value"] for one in written if one["metric"] == "reached_step"] == [0]
    done = xtool(*args, "--reach", "bits_per_chr=1", "-o", "n.st")
    assert "did you mean `bits_per_char`" in done.err


def test_the_context_is_a_dial_with_a_default_and_a_place_in_run_files(
    tmp_path: Path, xtool: Run
) -> None:
    prepare(tmp_path / "book.st")
    args = ["train", "book.st", *TINY[:6], "--threads", 1, "--steps", 1]
    assert xtool(*args, "-o", "a.st").code == 0
    assert load(tmp_path / "a.st")[0].config["context"] == 64
    assert xtool(*args, "--context", 5, "--save-config", "r.toml", "-o", "b.st").code == 0
    assert xtool(*args, "--config", "r.toml", "-o", "c.st").code == 0
    assert (tmp_path / "b.st").read_bytes() == (tmp_path / "c.st").read_bytes()
    assert "for language 64" in xtool("train", "--help").out


def test_examples_are_shown_with_what_is_wrong_marked(model: Path, xtool: Run) -> None:
    lines = xtool("sample", model, "--examples", 3).out.splitlines()
    shown = [line.partition(" ") for line in lines if not line.startswith(" ")]
    assert [line[0] for line in shown] == ["input", "target", "model"] * 3
    assert all(len(line) == 16 for line in lines if not line.startswith(" "))
    assert xtool("inspect", "book.st", "--examples", 1).out.count("\ninput   Ω says") == 1
    header = load(model)[0]
    tokens = restore(header.tokenizer).encode("a\n\tb")[None]
    wrong = restore(header.tokenizer).encode("a\n\ta")[None]
    assert TASK.show(header, tokens, tokens, wrong) == [
        "input   a␊␉b",
        "target  a␊␉b",
        "model   a␊␉a",
        "           ^",
    ]


def test_what_has_no_shape_is_shown_by_one_that_has() -> None:
    ours = fit("byte", {})
    header = Header(kind="data", tokenizer=ours.header())
    tokens = ours.encode("é!\x7f\x1b")[None]
    assert TASK.show(header, tokens, tokens, None)[0] == "input   \ufffd\ufffd!\ufffd␛"


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--context", 10**6], 1, "one example of `context` 1000000 needs 1000001"),
        (["--context", 600], 1, "split `dev` has"),
        (["--context", 0], 2, "`--context` is 0, it must be at least 1"),
        (["--from", "lm.st", "--context", 9], 2, "`context` is 8 in the model given with `--from`"),
    ],
)
def test_a_context_that_cannot_be_is_refused(
    args: list[Any], code: int, message: str, model: Path, xtool: Run
) -> None:
    done = xtool("train", "book.st", "--steps", 1, *args, "-o", "no.st")
    assert (done.code, message in done.err) == (code, True), done.err
    assert not model.with_name("no.st").exists()


def test_the_context_of_ready_examples_is_theirs(data: Path, xtool: Run) -> None:
    done = xtool("train", data, "--context", 12, "--steps", 1, "-o", "no.st")
    assert done.code == 2
    assert "`--context` is 12, the examples of the data have 20 positions" in done.err
    assert xtool("train", data, *TINY[:6], "--context", 20, "--steps", 1, "-o", "m.st").code == 0


@pytest.mark.parametrize(
    ("dials", "text", "message"),
    [
        ({}, "short", "5 characters leave 0 tokens for the split `dev`"),
        ({"dev_fraction": 0.0}, PROSE, "`--dev-fraction` is 0.0"),
        ({"dev_fraction": 0.6, "test_fraction": 0.4}, PROSE, "their sum below 1"),
        ({"test_fraction": 1e-4}, PROSE, "leave 0 tokens for the split `test`"),
    ],
)
def test_a_text_that_cannot_be_split_is_refused(
    dials: dict[str, float], text: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(XtoolError, match=message):
        prepare(tmp_path / "book.st", text, **dials)
    assert not (tmp_path / "book.st").exists()


def test_lines_are_no_running_text(xtool: Run, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    done = xtool("prepare", "language", "--lines", "a.txt", "a.txt", "-o", "b.st")
    assert done.code == 2
    assert "takes a running text" in done.err


def test_a_model_of_another_alphabet_is_refused(model: Path, xtool: Run) -> None:
    prepare(model.with_name("other.st"), PROSE.replace("q", "Q"))
    for command in (
        ["evaluate", model, "--data", "other.st"],
        ["sample", model, "--data", "other.st"],
        ["train", "other.st", "--from", model, "-o", "no.st"],
        ["grow", model, "--to", 16, "--data", "other.st", "-o", "no.st"],
        ["grow", model, "--to", 16, "--data", "other.st", "--method", "learned", "-o", "no.st"],
        ["inspect", "--similarity", model, model, "--data", "other.st"],
    ):
        done = xtool(*command)
        assert done.code == 1
        assert "its symbols stand for other characters than the model's" in done.err
    assert not model.with_name("no.st").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t + 200, "holds 200 to"),
        (lambda t: t.float(), "`dev.tokens` is not N whole numbers"),
        (lambda t: t.view(-1, 1), "not a running text"),
        (lambda t: t[:1], "not a running text of 2 tokens"),
    ],
)
def test_a_text_of_other_symbols_is_refused(
    change: Callable[[torch.Tensor], torch.Tensor], message: str, book: Path
) -> None:
    header, tensors = load(book)
    save(book, header, tensors | {"dev.tokens": change(tensors["dev.tokens"])})
    with pytest.raises(XtoolError, match=message):
        open_data(book)


def test_a_header_without_the_sizes_of_its_text_is_refused(book: Path) -> None:
    header, tensors = load(book)
    for sizes in (None, 5, {"train": 0}, {"train": "many"}):
        save(book, header.model_copy(update={"task": header.task | {"bytes": sizes}}), tensors)
        with pytest.raises(XtoolError, match="lacks the sizes of its splits"):
            open_data(book)
    assert task_of(header, "x") is TASK


def test_a_corpus_has_its_customary_splits(
    xtool: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, literal = registry.literal("corpora", "text8", "DEFAULTS"), registry.literal

    def as_text8(folder: str, *rest: Any) -> Any:
        return ours if (folder, rest[1]) == ("corpora", "DEFAULTS") else literal(folder, *rest)

    monkeypatch.setattr(registry, "literal", as_text8)
    for flags, dev in ([], 0.05), (["--dev-fraction", 0.2], 0.2):
        assert xtool("prepare", "language", "builtin", *flags, "-o", "b.st", "--force").code == 0
        sizes = load(tmp_path / "b.st")[0].task["tokens"]
        shares = [sizes[name] / sum(sizes.values()) for name in ("train", "dev", "test")]
        assert shares == pytest.approx([0.95 - dev, dev, 0.05], abs=1e-5)


def test_an_unknown_tokenizer_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown tokenizer `word`"):
        fit("word", {"train": "x"})


def test_bpe_merges_the_commonest_pair_first_and_knows_every_text() -> None:
    ours = fit("bpe", {"train": "abab\nabab\nabab ba", "dev": "zzzz zzzz"}, 258)
    assert ours.header() == {"name": "bpe", "merges": ["a b", "ab ab"]}  # nothing of dev
    assert ours.encode("abab").tolist() == [257]
    assert fit("bpe", {"train": "aab aab aab"}, 256).size == 256
    for text in ("", "zz Ω\U0001f600\x00\r\n  \t日本", PROSE):
        assert ours.decode(ours.encode(text)) == text


def test_bpe_does_not_depend_on_where_a_long_text_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    text = PROSE + " a  b\n\n c" * 20 + "x" * 50
    whole = fit("bpe", {"train": text}, 400)
    monkeypatch.setattr(bpe, "CHUNK", 7)
    assert len(list(bpe._chunks(text))) > 20
    parts = fit("bpe", {"train": text}, 400)
    assert parts.header() == whole.header()
    assert torch.equal(parts.encode(text), whole.encode(text))


@pytest.mark.parametrize("merges", [None, "a b", [1], ["a"], ["a b", "xy c"], ["a b c"]])
def test_damaged_merges_are_refused(merges: Any) -> None:
    with pytest.raises(XtoolError, match="merges"):
        restore({"name": "bpe", "merges": merges}).encode("a")


def test_new_text_is_prepared_with_a_models_own_tokenizer(
    model: Path, xtool: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("new.txt").write_text("the quick brown fox\n" * 20)
    made = xtool("prepare", "language", "new.txt", "--tokenizer-from", model, "-o", "new.st")
    assert made.code == 0, made.err
    with Source(Path("new.st")) as source, Source(model) as trained:
        header = source.require_header("data")
        assert header.tokenizer == trained.require_header("model").tokenizer
        assert header.lineage[-1].inputs["tokenizer"] == trained.verify()
    scored = xtool("evaluate", model, "--data", "new.st", "--split", "dev")
    assert scored.code == 0, scored.err
    Path("odd.txt").write_text("the quick brown fox ż\n" * 20)
    for arguments, reason in (
        (["language", "odd.txt", "--tokenizer-from", model], "character 'ż' (column 21)"),
        (["language", "new.txt", "--tokenizer-from", model, "--tokenizer", "byte"], "brings"),
        (["counting", "new.txt", "--tokenizer-from", model], "its own alphabet"),
        (["language", "new.txt", "--tokenizer-from", "none.st"], "none.st"),
        (["language", "new.txt", "--vocab-size", 300], "is for bpe"),
        (["language", "new.txt", "--tokenizer", "bpe", "--vocab-size", 255], "256 to"),
    ):
        refused = xtool("prepare", *arguments, "-o", "no.st")
        assert refused.code in (1, 2), refused.err
        assert reason in refused.err
        assert not Path("no.st").exists()


def test_damaged_merges_are_named_by_their_file(
    book: Path, xtool: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path / "b.st", tokenizer="bpe", vocab_size=300)
    header, tensors = load(tmp_path / "b.st", "data")
    for name, change in (
        ("k1.st", {"merges": header.tokenizer["merges"][::-1]}),
        ("k2.st", {"name": "nope"}),
    ):
        other = header.model_copy(update={"tokenizer": header.tokenizer | change})
        save(tmp_path / name, other, tensors)
        checked = xtool("check", name)
        assert (checked.code, checked.out.startswith(f"bad  {name}: ")) == (3, True), checked
        for command in (
            ["prepare", "language", "text.txt", "--tokenizer-from", name, "-o", "p.st"],
            ["train", name, *TINY, "--steps", 1, "-o", "m.st"],
        ):
            done = xtool(*command)
            assert (done.code, done.err.startswith(f"error: {name}: ")) == (1, True), done


def test_a_word_without_an_end_is_cut() -> None:
    text = "x" * 100_000 + " " * 50_000
    ours = fit("bpe", {"train": text}, 300)
    assert ours.decode(ours.encode(text)) == text


def test_perplexity_is_of_the_mean_loss(model: Path, xtool: Run) -> None:
    values = found(xtool("evaluate", model, "--format", "jsonl"))
    for column in ("value", "low", "high"):
        expected = math.exp(values["loss"][column])
        assert values["perplexity"][column] == pytest.approx(expected)
