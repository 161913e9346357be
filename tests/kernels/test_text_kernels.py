"""What every text kernel must keep: equal to its oracle, row-wise, null-safe, strict about types."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from muster.errors import KernelError, KernelInputError
from muster.kernels import registry
from muster.kernels.arrow_buffers import text_buffers

_spec = importlib.util.spec_from_file_location("kernel_test_texts", Path(__file__).with_name("texts.py"))
texts = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(texts)

CASES = [
    ("text.minhash@1", {"signature": True}),
    ("text.minhash@1", {"ngram": 2, "bands": 3, "rows": 2}),
    ("text.quality@1", {}),
    ("text.quality@1", {"mode": "decide"}),
    ("bench.spin@1", {"rounds": 3}),
]
IDS = [f"{kernel}-{i}" for i, (kernel, _) in enumerate(CASES)]
relaxed = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


def table_of(values, kind=None):
    return pa.table({"text": pa.array(values, kind or pa.string())})


def differing(one, other):
    return [
        (name, row, a, b)
        for name in one.column_names
        for row, (a, b) in enumerate(zip(one[name].to_pylist(), other[name].to_pylist(), strict=True))
        if a != b
    ]


@pytest.mark.parametrize(("kernel", "params"), CASES, ids=IDS)
@given(values=texts.columns)
@relaxed
def test_compiled_equals_reference(kernel, params, values):
    k, table = registry.get(kernel), table_of(values)
    assert differing(k.run(table, params), k.run(table, params, backend="reference")) == []


@pytest.mark.parametrize(("kernel", "params"), CASES, ids=IDS)
def test_compiled_equals_reference_on_hard_cases(kernel, params):
    k, table = registry.get(kernel), table_of([*texts.HARD, None])
    made = k.run(table, params)
    assert differing(made, k.run(table, params, backend="reference")) == []
    assert made.schema == k.output_schema(params)
    assert all(field.nullable for field in made.schema)
    assert all(made[name][-1].as_py() is None for name in made.column_names)
    made.validate(full=True)


@pytest.mark.parametrize(("kernel", "params"), CASES[:1] + CASES[2:3], ids=["minhash", "quality"])
def test_compiled_equals_reference_on_real_documents(kernel, params):
    k, table = registry.get(kernel), table_of(texts.real_documents(60))
    small = {**params, "bands": 2, "rows": 2} if kernel == "text.minhash@1" else params
    assert differing(k.run(table, small), k.run(table, small, backend="reference")) == []


@pytest.mark.parametrize(("kernel", "params"), CASES, ids=IDS)
@given(values=texts.columns, cut=st.integers(0, 8), start=st.integers(0, 8))
@relaxed
def test_rows_do_not_depend_on_chunks_or_slices(kernel, params, values, cut, start):
    k, table = registry.get(kernel), table_of(values)
    whole = k.run(table, params)
    chunked = pa.concat_tables([table.slice(0, cut), table.slice(cut)])
    assert k.run(chunked, params).combine_chunks().equals(whole.combine_chunks())
    assert k.run(table.slice(start), params).combine_chunks().equals(whole.slice(start).combine_chunks())


@pytest.mark.parametrize(("kernel", "params"), CASES, ids=IDS)
@pytest.mark.parametrize("kind", ["large_string", "string_view", "dictionary", "dictionary_large"])
def test_encodings_of_text_give_the_same_rows(kernel, params, kind):
    values = ["one two three four five six", None, "", "é…", "one two three four five six"]
    plain = table_of(values)
    types = {
        "large_string": pa.large_string(),
        "string_view": pa.string_view(),
        "dictionary": pa.dictionary(pa.int32(), pa.string()),
        "dictionary_large": pa.dictionary(pa.int8(), pa.large_string()),
    }
    column = plain["text"].combine_chunks()
    other = column.dictionary_encode() if kind.startswith("dictionary") else column.cast(types[kind])
    if kind == "dictionary_large":
        other = column.cast(pa.large_string()).dictionary_encode()
    k = registry.get(kernel)
    assert k.run(pa.table({"text": other}), params).equals(k.run(plain, params))


@pytest.mark.parametrize("kernel", sorted({kernel for kernel, _ in CASES}))
def test_wrong_input_is_refused(kernel):
    k = registry.get(kernel)
    for values in (pa.array([b"\xff"], pa.binary()), pa.array([1]), pa.array([None]), pa.array([["a"]])):
        with pytest.raises(KernelInputError, match="text"):
            k.run(pa.table({"text": values}))
    with pytest.raises(KernelInputError, match="found columns: 'body'"):
        k.run(pa.table({"body": ["a"]}))
    with pytest.raises(KernelError, match="colum"):
        k.run(table_of(["a"]), {"colum": "text"})
    with pytest.raises(KernelError, match=r"no CUDA version of .* yet"):
        k.run(table_of(["a"]), backend="cuda")
    with pytest.raises(KernelError, match="unknown backend"):
        k.run(table_of(["a"]), backend="gpu")
    with pytest.raises(KernelError, match="no assets"):
        k.run(table_of(["a"]), assets={"vocabulary": b""})


def broken(offsets, data=b"abcdef", rows=2):
    buffers = [None, pa.py_buffer(np.array(offsets, np.int32)), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.string(), rows, buffers)


def test_broken_arrays_are_refused_with_the_row():
    k = registry.get("text.quality@1")
    invalid = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.py_buffer(np.array([0, 1, 3, 4], np.int32)), pa.py_buffer(b"a\xff\xfeb")]
    )
    with pytest.raises(KernelInputError, match="row 6"):
        k.run(pa.table({"text": pa.chunked_array([pa.array(["x"] * 5), invalid])}))
    for array in (broken([0, 4, 2]), broken([0, 9, 4])):
        with pytest.raises(KernelInputError, match="row"):
            text_buffers(array, "text", "k@1")


def test_views_are_not_copies_and_bounds_hold_on_slices():
    array = pa.array(["skip", "é", None, "abc"]).slice(1)
    rows = text_buffers(array, "text", "k@1")
    assert rows.n_rows == 3
    assert rows.data.ctypes.data == array.buffers()[2].address
    assert rows.valid.tolist() == [1, 0, 1]
    assert bytes(rows.data[rows.offsets[2] : rows.offsets[3]]) == b"abc"
    assert not rows.data.flags.writeable


def test_zero_rows_and_one_large_row():
    for kernel, params in CASES:
        k = registry.get(kernel)
        assert k.run(table_of([]), params).num_rows == 0
        empty = pa.table({"text": pa.chunked_array([], pa.string())})
        assert k.run(empty, params).schema == k.output_schema(params)
    long = "".join(f"{i} " for i in range(700_000))
    made = registry.get("text.quality@1").run(table_of([long]))
    assert made["quality_words"].to_pylist() == [700_000]
    assert made["quality_reason"].to_pylist() == ["gopher_long_doc"]
    assert sys.getsizeof(long) > 4_000_000
