"""Bad files are refused, killed and failed writes leave the old file, bytes are reproducible."""

import errno
import json
import os
import random
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from xtool import atomic, writing
from xtool.atomic import replacing
from xtool.checkpoint import Reader, load, save, save_streamed
from xtool.errors import CheckFailed, XtoolError
from xtool.header import Header
from xtool.storage import Source
from xtool.writing import Spec

HEADER = Header(kind="data", config={"corpus": "x"})


def write_small(path: Path) -> str:
    return save(path, HEADER, {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor([True, False])})


def test_any_safetensors_reader_reads_the_file(tmp_path: Path) -> None:
    write_small(tmp_path / "a.st")
    found = load_file(tmp_path / "a.st")
    assert torch.equal(found["a"], torch.arange(6.0).view(2, 3))
    with safe_open(tmp_path / "a.st", "pt") as file:
        assert list(file.metadata()) == ["xtool"]
        assert json.loads(file.metadata()["xtool"])["kind"] == "data"


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(4, 6).T,
        torch.randn(8, 6)[::2, 1::2],
        torch.randn(3, 1).expand(3, 5),
        torch.tensor(3.5),
        torch.zeros(0, 4),
        torch.randn(3, dtype=torch.bfloat16),
        torch.arange(5, dtype=torch.uint8),
        torch._neg_view(torch.randn(3)),
        torch.randn(3, dtype=torch.complex64).conj().imag,
    ],
    ids=["transposed", "strided", "expanded", "scalar", "empty", "bf16", "u8", "negative", "conj"],
)
def test_a_tensor_comes_back_as_the_values_it_showed(tmp_path: Path, tensor: torch.Tensor) -> None:
    save(tmp_path / "a.st", HEADER, {"x": tensor})
    _, found = load(tmp_path / "a.st")
    assert torch.equal(found["x"], tensor.clone())
    assert found["x"].dtype == tensor.dtype


def test_equal_content_gives_equal_bytes_whatever_the_order(tmp_path: Path) -> None:
    tensors = {name: torch.randn(3) for name in "cab"}
    save(tmp_path / "1.st", HEADER, tensors)
    save(tmp_path / "2.st", HEADER, dict(sorted(tensors.items())))
    assert (tmp_path / "1.st").read_bytes() == (tmp_path / "2.st").read_bytes()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_neither_written_nor_read(
    tmp_path: Path, value: float
) -> None:
    path = tmp_path / "a.st"
    write_small(path)
    before = path.read_bytes()
    with pytest.raises(XtoolError, match="NaN or infinite"):
        save(path, HEADER, {"a": torch.tensor([value])})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.st"]


@pytest.mark.parametrize(
    "tensor", [torch.randn(2, dtype=torch.complex64), torch.zeros(2, device="meta")]
)
def test_what_the_format_cannot_hold_is_refused(tmp_path: Path, tensor: torch.Tensor) -> None:
    with pytest.raises(XtoolError, match="cannot be stored"):
        save(tmp_path / "a.st", HEADER, {"x": tensor})


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.st"
    write_small(path)
    good = path.read_bytes()
    generator = random.Random(0)
    for _ in range(300):
        place, bit = generator.randrange(len(good)), generator.randrange(8)
        path.write_bytes(good[:place] + bytes([good[place] ^ 1 << bit]) + good[place + 1 :])
        with pytest.raises(XtoolError):
            load(path)


def test_a_file_that_is_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.st"
    write_small(path)
    good = path.read_bytes()
    for length in [*range(0, 16), *range(16, len(good), 7)]:
        path.write_bytes(good[:length])
        with pytest.raises(XtoolError):
            load(path)


def raw_file(path: Path, table: Any, data: bytes = b"", text: str | None = None) -> None:
    raw = (json.dumps(table) if text is None else text).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)


F32 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
BAD = {
    "not json": ("{", None),
    "array": ("[]", None),
    "leading space": (" {}", None),
    "duplicate tensor": ('{"a":{},"a":{}}', None),
    "duplicate metadata": ('{"__metadata__":{"x":"1","x":"2"}}', None),
    "metadata not text": (None, {"__metadata__": {"a": 1}}),
    "unknown type": (None, {"a": F32 | {"dtype": "F8_E4M3"}}),
    "entry as array": (None, {"a": [1]}),
    "extra field": (None, {"a": F32 | {"x": 1}}),
    "negative shape": (None, {"a": F32 | {"shape": [-1]}}),
    "boolean shape": (None, {"a": F32 | {"shape": [True]}}),
    "float shape": (None, {"a": F32 | {"shape": [1.0]}}),
    "too many axes": (None, {"a": F32 | {"shape": [1] * 9}}),
    "huge axis": (None, {"a": {"dtype": "F32", "shape": [1 << 41, 0], "data_offsets": [0, 0]}}),
    "shape lies": (None, {"a": F32 | {"shape": [2]}}),
    "reversed offsets": (None, {"a": F32 | {"data_offsets": [4, 0]}}),
    "hole": (None, {"a": F32 | {"data_offsets": [4, 8]}}),
    "overlap": (None, {"a": F32, "b": F32}),
    "escape in a name": (None, {"a\x1b[2J": F32}),
    "empty name": (None, {"": F32}),
    "nested too deeply": ("[" * 100_000, None),
}


@pytest.mark.parametrize("name", BAD)
def test_a_malformed_header_is_refused(tmp_path: Path, name: str) -> None:
    text, table = BAD[name]
    raw_file(tmp_path / "a.st", table, b"\0" * 4, text)
    with pytest.raises(XtoolError) as error:
        Source(tmp_path / "a.st")
    assert "\x1b" not in error.value.message


@pytest.mark.parametrize("extra", [b"x", b"PK\x03\x04"])
def test_bytes_after_the_last_tensor_are_refused(tmp_path: Path, extra: bytes) -> None:
    write_small(tmp_path / "a.st")
    with (tmp_path / "a.st").open("ab") as file:
        file.write(extra)
    with pytest.raises(XtoolError, match="after the last tensor"):
        Source(tmp_path / "a.st")


@pytest.mark.parametrize(
    ("content", "looks"),
    [
        (b"PK\x03\x04" + b"\0" * 99, "zip"),
        (b"\x80\x02" + b"x" * 99, "pickle"),
        (b"GGUF" + b"\xff" * 99, "GGUF"),
    ],
)
def test_another_kind_of_file_is_named(tmp_path: Path, content: bytes, looks: str) -> None:
    (tmp_path / "a.st").write_bytes(content)
    with pytest.raises(XtoolError) as error:
        Source(tmp_path / "a.st")
    assert looks in error.value.hint


def test_odd_paths_neither_hang_nor_mislead(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    paths = [
        tmp_path / "fifo",
        tmp_path,
        tmp_path / "loop",
        tmp_path / "none",
        Path("/dev/zero"),
        Path("/dev/null"),
    ]
    for path in [*paths, Path("a\0b")]:
        with pytest.raises(XtoolError):
            Source(path)


def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.st"
    write_small(path)
    with Source(path) as source:
        reader = Reader(source)
        with path.open("ab") as file:
            file.truncate(source.size - 2)
        with pytest.raises(XtoolError, match="changed while"):
            reader.tensor("b")


def test_a_digest_of_another_file_does_not_pass(tmp_path: Path) -> None:
    write_small(tmp_path / "a.st")
    raw = (tmp_path / "a.st").read_bytes()
    with Source(tmp_path / "a.st") as source:
        assert source.header is not None
        digest = source.header.digest.encode()
    (tmp_path / "a.st").write_bytes(raw.replace(digest, b"1" * 64))
    with pytest.raises(CheckFailed, match="digest"):
        load(tmp_path / "a.st")


# The system calls of one write that can fail here.
FAULTS = 7


@pytest.mark.parametrize("failing", range(1, 12))
def test_a_write_that_fails_at_any_call_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    path = tmp_path / "a.st"
    write_small(path)
    before = path.read_bytes()
    count = 0

    def fails(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **named: Any) -> Any:
            nonlocal count
            count += 1
            if count == failing:
                raise OSError(28, "No space left on device")
            return call(*args, **named)

        return run

    for name in ("open", "fsync", "replace", "link", "fdopen", "statvfs"):
        monkeypatch.setattr(os, name, fails(getattr(os, name)))
    expected = (
        pytest.raises(XtoolError, match="no space left") if failing <= FAULTS else nullcontext()
    )
    with expected:
        save(path, HEADER, {"c": torch.randn(5)})
    monkeypatch.undo()
    found = path.read_bytes()
    if count >= failing and found != before:
        load(path)  # the rename was done; only the folder's fsync failed
    assert os.listdir(tmp_path) == ["a.st"]


def test_an_error_in_making_a_block_comes_through_and_leaves_nothing(tmp_path: Path) -> None:
    def rows(name: str, start: int, stop: int) -> torch.Tensor:
        if name == "d":
            raise XtoolError("no such rows")
        return torch.ones(stop - start)

    threads = threading.active_count()
    with pytest.raises(XtoolError, match="no such rows"):
        save_streamed(tmp_path / "a.st", HEADER, [Spec(n, "F32", (9,)) for n in "abcdef"], rows)
    assert os.listdir(tmp_path) == []
    assert threading.active_count() == threads


def test_the_disks_error_is_not_lost_when_only_an_early_fsync_tells_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def fsync(fd: int) -> None:
        calls.append(fd)
        if len(calls) == 1:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(writing, "FLUSH", 1)
    with pytest.raises(XtoolError, match="input/output error"):
        save(tmp_path / "a.st", HEADER, {"a": torch.ones(3), "b": torch.ones(3)})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_infinities_that_cancel_are_refused_and_sums_that_overflow_are_not(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    largest = torch.finfo(dtype).max
    save(tmp_path / "a.st", HEADER, {"x": torch.full((40,), largest, dtype=dtype)})
    load(tmp_path / "a.st")
    with pytest.raises(XtoolError, match="has 2 values that are NaN or infinite"):
        save(
            tmp_path / "b.st",
            HEADER,
            {"x": torch.tensor([1.0, float("inf"), -float("inf")], dtype=dtype)},
        )


@pytest.mark.parametrize("is_new", [True, False])
def test_fsync_comes_before_the_rename_and_the_folders_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_new: bool
) -> None:
    if not is_new:
        write_small(tmp_path / "a.st")
    calls: list[str] = []
    fsync, place = os.fsync, os.link if is_new else os.replace

    def note_fsync(fd: int) -> None:
        calls.append("fsync folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "fsync file")
        fsync(fd)

    def note_place(*args: Any) -> None:
        calls.append("place")
        place(*args)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "link" if is_new else "replace", note_place)
    write_small(tmp_path / "a.st")
    assert calls == ["fsync file", "place", "fsync folder"]


def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    path = tmp_path / ("模" * 84 + ".st")
    for content in (b"one", b"two"):
        with replacing(path) as (file, _):
            file.write(content)
    assert [one.read_bytes() for one in tmp_path.iterdir()] == [b"two"]


def test_a_name_that_another_writer_took_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.st"

    def race() -> None:
        with atomic.replacing(path) as (file, _):
            file.write(b"mine")
            path.write_bytes(b"theirs")

    with pytest.raises(XtoolError, match="another command"):
        race()
    assert path.read_bytes() == b"theirs"
    assert os.listdir(tmp_path) == ["a.st"]


def test_a_file_system_without_links_still_gets_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    write_small(tmp_path / "a.st")
    load(tmp_path / "a.st")
    assert os.listdir(tmp_path) == ["a.st"]


def test_the_mode_follows_the_umask_and_a_symlink_stays(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_small(tmp_path / "real.st")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "real.st").stat().st_mode) == 0o640
    (tmp_path / "link.st").symlink_to("real.st")
    save(tmp_path / "link.st", HEADER, {"z": torch.zeros(1)})
    assert (tmp_path / "link.st").is_symlink()
    assert "z" in load(tmp_path / "real.st")[1]


def test_a_proof_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def refuse(path: Path) -> None:
        assert path.exists()
        raise CheckFailed("no")

    with pytest.raises(CheckFailed):
        writing.write(
            tmp_path / "a.st", HEADER, [Spec("a", "F32", (1,))], lambda _: [b"\0" * 4], refuse
        )
    assert os.listdir(tmp_path) == []


def test_a_file_larger_than_the_disk_is_refused_before_it_is_written(tmp_path: Path) -> None:
    with pytest.raises(XtoolError, match="the disk has"):
        writing.write(
            tmp_path / "a.st", HEADER, [Spec("a", "F32", (1 << 36, 1 << 8))], lambda _: []
        )
    assert os.listdir(tmp_path) == []


WRITER = """
import sys
from pathlib import Path
from xtool.header import Header
from xtool.writing import Spec, write
number = 0
while True:
    number += 1
    block = bytes([number % 256]) * (1 << 20)
    specs = [Spec("a", "U8", (4 << 20,))]
    write(Path(sys.argv[1]), Header(kind="data"), specs, lambda _: [block] * 4)
    print(number, flush=True)
"""


def test_kill_minus_nine_while_a_file_is_replaced_never_breaks_it(tmp_path: Path) -> None:
    path = tmp_path / "a.st"
    generator = random.Random(0)
    for _ in range(20):
        child = subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(generator.random() * 0.03)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        with Source(path) as source:
            source.verify()
    for left in tmp_path.glob(".a.st.*.tmp"):
        os.utime(left, (0, 0))
    write_small(path)
    assert os.listdir(tmp_path) == ["a.st"], "a later writer removes what the killed ones left"
