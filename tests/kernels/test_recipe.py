"""Recipes: parsing, normal form, bounds, columns; and the registry's promises."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.errors import KernelError, KernelInputError
from muster.kernels import registry
from muster.kernels.recipe import MAX_JSON_NBYTES, Recipe

TABLE = pa.table({"id": [1, 2, 3], "text": ["one two three four five six", None, ""]})


def test_parse_normalises_and_round_trips():
    recipe = Recipe.parse(["text.quality@1:mode=decide", "text.minhash@1: ngram=5"])
    same = Recipe.parse(["text.quality@1:column=text,mode=decide", "text.minhash@1"])
    assert recipe == same and recipe.identity == same.identity and recipe.to_json() == same.to_json()
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert recipe.identity != Recipe.parse(["text.quality@1", "text.minhash@1"]).identity
    assert recipe.identity != Recipe.parse(["text.minhash@1", "text.quality@1:mode=decide"]).identity
    assert recipe.row_wise and recipe.exact
    assert recipe.input_schema.names == ["text"]
    assert recipe.output_schema.names[:3] == ["quality_keep", "quality_reason", "minhash_b00"]


def test_run_adds_only_new_columns_and_keeps_within_its_bound():
    recipe = Recipe.parse(["text.quality@1", "text.minhash@1:signature=true", "bench.spin@1:rounds=1"])
    made = recipe.run(TABLE)
    assert made.schema == recipe.output_schema and made.num_rows == 3
    assert made.slice(1, 1).to_pylist()[0] == dict.fromkeys(made.column_names)
    assert made.nbytes < recipe.max_result_nbytes(3)
    assert made.equals(recipe.run(TABLE, backend="reference"))
    assert recipe.cost_s(2_000_000, 10) > 1.9 * recipe.cost_s(1_000_000, 5) > 0
    recipe.warm()
    assert len(pickle.dumps(recipe)) < 10_000
    assert pickle.loads(pickle.dumps(recipe)).run(TABLE).equals(made)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "1 to 32 kernels"),
        (["text.minhash@9"], "known kernels: .*text.minhash@1"),
        (["text.minhash"], "unknown kernel"),
        (["text.minhash@1:ngrams=5"], "ngrams"),
        (["text.minhash@1:ngram=five"], "ngram"),
        (["text.minhash@1:ngram"], "name=value"),
        (["text.minhash@1:ngram=5,ngram=6"], "twice"),
        (["text.minhash@1", "text.minhash@1:ngram=4"], "there already"),
        (["bench.spin@1", "text.minhash@1:column=spin_state"], "spin_state"),
    ],
)
def test_wrong_recipes_are_refused(texts, message):
    with pytest.raises(KernelError, match=message):
        Recipe.parse(texts)


def test_a_column_that_is_there_already_is_refused():
    recipe = Recipe.parse(["bench.spin@1:rounds=1"])
    with pytest.raises(KernelInputError, match="spin_state"):
        recipe.run(TABLE.append_column("spin_state", pa.array([1, 2, 3])))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["v", "steps", "kernel", "params"]), inner)
    ),
    max_leaves=12,
)


@given(st.text(max_size=40) | json_values.map(json.dumps))
@settings(max_examples=200, deadline=None)
def test_from_json_refuses_anything_else(text):
    with pytest.raises(KernelError):
        Recipe.from_json(text)


def test_from_json_is_bounded():
    step = {"kernel": "bench.spin@1", "params": {}}
    for text in (
        json.dumps({"v": 1, "steps": [step] * 33}),
        json.dumps({"v": 1, "steps": [step], "more": 1}),
        json.dumps({"v": 1, "steps": [{**step, "code": "x"}]}),
        json.dumps({"v": 1, "steps": [{**step, "params": {"column": "x" * 201}}]}),
        "[" * 50_000,
        " " * (MAX_JSON_NBYTES + 1),
    ):
        with pytest.raises(KernelError):
            Recipe.from_json(text)


def test_registry_is_light_and_complete():
    code = (
        "import sys; from muster.kernels import registry; registry.known_ids();"
        "assert 'numba' not in sys.modules and 'pyarrow' not in sys.modules;"
        "[(k.id, k.summary, k.output_schema({}), k.build_digest, k.cost_s({}, 1, 1)) for k in registry.all_kernels()];"
        "assert 'numba' not in sys.modules and 'pyarrow.compute' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert registry.known_ids() == ["bench.spin@1", "text.minhash@1", "text.quality@1"]
    assert registry.get("text.minhash@1") is registry.get("text.minhash@1")
    assert len({kernel.build_digest for kernel in registry.all_kernels()}) == 3


def test_third_party_kernels(monkeypatch):
    class Point:
        name, value = "acme.clean@1", "acme:Clean"

        def __init__(self, loaded):
            self.load = loaded

    def missing():
        raise ModuleNotFoundError("acme")

    registry.get.cache_clear()
    spin = type(registry.get("bench.spin@1"))
    clean = type("Clean", (spin,), {"name": "acme.clean"})
    for loaded, message in ((missing, "acme"), (lambda: spin, "calls itself bench.spin@1"), (lambda: 5, "found int")):
        monkeypatch.setattr(registry, "_third_party", lambda loaded=loaded: {"acme.clean@1": Point(loaded)})
        with pytest.raises(KernelError, match=message):
            registry.get("acme.clean@1")
    monkeypatch.setattr(registry, "_third_party", lambda: {"acme.clean@1": Point(lambda: clean)})
    assert registry.get("acme.clean@1").id == "acme.clean@1"
    registry.get.cache_clear()
