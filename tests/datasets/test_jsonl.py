"""JSON lines: what a line becomes, in words that never change; types guessed once; chunks at line ends."""

from __future__ import annotations

import json
import time
from pathlib import Path

import orjson
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.datasets.json_fault import json_fault
from muster.datasets.json_types import infer
from muster.datasets.reading import read_chunk
from muster.datasets.sources import open_source

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


def rows_of(path: Path, columns: list[str] | None = None, **sized) -> list[tuple]:
    source = open_source(str(path), exchange_dir=path.parent / "ex")
    columns = columns or source.schema.names
    out = []
    for ref in source.chunks(columns, **sized):
        rows = read_chunk(ref, source.schema, source.byte_source(0))
        values = [rows.table.column(name).to_pylist() for name in rows.table.schema.names]
        out += zip(*values, rows.reject.to_pylist(), strict=True)
    return out


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "blank line"),
        (b" \t\r", "blank line"),
        (b'{"a" 1}', "invalid JSON: expected ':' at column 6"),
        (b'{"a": 1', "invalid JSON: expected ',' or '}' at column 8"),
        (b'{"a": 1,}', "invalid JSON: expected a name in double quotes at column 9"),
        (b"{'a': 1}", "invalid JSON: expected a name in double quotes or '}' at column 2"),
        ('{"\u00e9\u20ac": nope}'.encode(), "invalid JSON: expected a value at column 8"),
        (b'{"a": [1, 2}', "invalid JSON: expected ',' or ']' at column 12"),
        (b'{"a": 1} x', "invalid JSON: expected the end of the line at column 10"),
        (b'{"a": "tab\t"}', "invalid JSON: expected a value at column 7"),
        (b'{"a": NaN}', "invalid JSON: expected a value at column 7"),
        (b'{"a": 01}', "invalid JSON: expected ',' or '}' at column 8"),
        (b'{"a": 1e999}', "invalid JSON: a number, an escape or the nesting is out of range"),
        (b'{"a": "\\ud800"}', "invalid JSON: a number, an escape or the nesting is out of range"),
        (b"[" * 2000 + b"]" * 2000, "invalid JSON: a number, an escape or the nesting is out of range"),
        (b'{"a": "\xff"}', "invalid UTF-8 at byte 7"),
        (b"[1]", "expected a JSON object, found an array"),
        (b"null", "expected a JSON object, found null"),
        (b'{"a": "x"}', "column a: expected int64, found a string"),
        (b'{"a": 1.0}', "column a: expected int64, found a number"),
        (b'{"a": true}', "column a: expected int64, found a boolean"),
        (b'{"a": 9223372036854775808}', "column a: expected int64, found an integer beyond 64 bits"),
        (b'{"t": [1, "x"]}', "column t: expected list<item: string>, found an array with other items"),
        (b'{"s": {"x": 1}}', "column s: expected string, found an object"),
        (b'{"s": "fine", "z": []}', None),
        (b'{"a": null}', None),
        (b'{"f": 3}', None),
    ],
)
def test_reasons(line, reason, tmp_path):
    good = b'{"a": 1, "s": "x", "t": ["y", null], "f": 1.5}'
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\n".join([good] * 1000 + [line, good]))  # 1,000 lines fix the types
    got = rows_of(path)
    assert [row[-1] for row in got] == [None] * 1000 + [reason, None]
    assert got[1001] == (1, "x", ["y", None], 1.5, None)
    if reason:
        assert got[1000][:-1] == (None,) * 4


def test_only_the_columns_that_are_read_reject(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": 1, "s": "x"}\n{"a": "no", "s": "y"}\n{"s": "z"}\n')
    assert rows_of(path, ["s"]) == [("x", None), ("y", None), ("z", None)]
    assert rows_of(path, ["a"])[1] == (None, "column a: expected int64, found a string")


@given(JSON)
def test_no_fault_is_found_in_json(value):
    for line in (orjson.dumps(value), json.dumps(value).encode()):
        assert json_fault(line) == "invalid JSON: a number, an escape or the nesting is out of range"


@given(JSON, st.data())
def test_the_fault_of_broken_json_is_near_the_first_wrong_byte(value, data):
    text = json.dumps({"k": value})
    at = data.draw(st.integers(0, len(text) - 1))
    broken = text[:at] + data.draw(st.sampled_from(["", "}", "]", ",", "x", '"', ":", "{"])) + text[at + 1 :]
    try:
        orjson.loads(broken)
    except orjson.JSONDecodeError:
        fault = json_fault(broken.encode())
        column = int(fault.rpartition(" ")[2]) if " at column " in fault else 1
        assert 1 <= column <= len(broken) + 1
        if " at column " not in fault:
            assert "out of range" in fault  # e.g. a lone surrogate, which is JSON by RFC 8259's grammar
            json.loads(broken)


def test_types_are_guessed_as_documented():
    rows = [
        {"b": True, "i": 1, "u": (1 << 64) - 1, "x": -1, "f": 1, "s": "t", "l": [], "o": {"k": 1}, "n": None, "m": 1},
        {"b": False, "i": -5, "u": 0, "x": 1 << 63, "f": 2.5, "s": None, "l": [1.5], "o": {}, "n": None, "m": "y"},
        {"e": [], "ll": [[1]], "lm": [1, "x"], "ls": [None, "x"], "m": "z", "l": [1]},
    ]
    schema, as_json = infer(rows)
    assert {f.name: str(f.type) for f in schema} == {
        "b": "bool", "i": "int64", "u": "uint64", "x": "double", "f": "double", "s": "string",
        "l": "list<item: double>", "o": "string", "n": "string", "m": "string", "e": "list<item: string>",
        "ll": "string", "lm": "string", "ls": "list<item: string>",
    }  # fmt: skip
    assert as_json == ["o", "ll", "lm"]


def test_objects_are_kept_as_json_text(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"o": {"b": [1, 2.50], "a": "\\u00e9"}}\n{"o": "s"}\n{"o": null}\n{"o": 7}\n{"o": {}}\n')
    assert [row[0] for row in rows_of(path)] == ['{"b":[1,2.5],"a":"\u00e9"}', '"s"', None, "7", "{}"]


def test_bom_crlf_and_blank_ends(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": 2}\r\n \r\n\n')
    assert rows_of(path) == [(1, None), (None, "blank line"), (2, None)]
    for sized in ({"rows_per_chunk": 1}, {"rows_per_chunk": 2}, {"chunk_nbytes": 1}, {"limit": 3}):
        assert rows_of(path, **sized) == rows_of(path)


@given(
    st.lists(st.sampled_from([b"", b" ", b'{"a":1}', b'{"a":"' + b"x" * 50 + b'"}', b"bad"]), max_size=40),
    st.none() | st.integers(1, 9),
    st.integers(1, 300),
    st.none() | st.integers(1, 45),
)
def test_chunks_hold_whole_lines(lines, rows_per_chunk, nbytes, limit):
    from muster.datasets import jsonl
    from muster.datasets.cutting import Target
    from muster.datasets.sources import SourceFile

    class Bytes:
        def read(self, offset, length):
            assert 0 <= offset <= offset + length <= len(data)
            return data[offset : offset + length]

    data = b"\n".join(lines)
    kept = data.rstrip(b" \t\r\n").split(b"\n") if data.strip() else []
    file = SourceFile(0, "", "x", len(data), "f", "v")
    block, jsonl._BLOCK_NBYTES = jsonl._BLOCK_NBYTES, 64
    refs = list(jsonl.plan(file, Bytes(), ["a"], Target(rows_per_chunk, nbytes), limit, {}))
    jsonl._BLOCK_NBYTES = block
    at = 0
    for ref in refs:
        ((offset, length),) = ref.ranges
        found = data[offset : offset + length].removesuffix(b"\n").split(b"\n")
        assert (ref.first_row, ref.n_rows) == (at, len(found))
        assert found == kept[at : at + len(found)]
        at += len(found)
        assert rows_per_chunk is None or ref is refs[-1] or ref.n_rows == rows_per_chunk
    assert at == min(len(kept), limit or len(kept))


def test_reading_is_fast_enough(tmp_path):
    """150 MB/s on one core is the goal; half of it must hold even on a loaded machine."""
    text = "the quick brown fox jumps over the lazy dog " * 7
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"".join(orjson.dumps({"id": k, "text": text[k % 40 :]}) + b"\n" for k in range(60_000)))
    source = open_source(str(path), exchange_dir=tmp_path)
    (ref,) = source.chunks(["text"], chunk_nbytes=1 << 30)
    data = source.byte_source(0)
    best = 0.0
    for _ in range(3):
        start = time.process_time()
        assert read_chunk(ref, source.schema, data).table.schema == pa.schema([("text", pa.string())])
        best = max(best, ref.input_nbytes / (time.process_time() - start) / 1e6)
    assert best > 75
