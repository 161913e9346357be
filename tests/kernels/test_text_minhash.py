"""``text.minhash@1``: golden vectors, and that it estimates similarity."""

from __future__ import annotations

import random

import pyarrow as pa
import pytest

from muster.errors import KernelError
from muster.kernels import registry
from muster.kernels.text_minhash.permutations import permutations
from muster.kernels.text_minhash.reference import shingles_of

GOLDEN_TEXT = "The quick brown fox, he jumps over THE lazy dog; naïve 42 times."
GOLDEN_TABLE = (0x6ABDE5925A2D0E49, 0xFB89B42FA2E79FEF, 0xFD6EEED8D35BE89D, 0x69C2436186C234E6)
GOLDEN_B00 = [0x29AF8BC7F48DE588, 0xE3372A95A1B936BB]
GOLDEN_B13 = [0x78F9101A18D8A123, 0xDFA20CD98595FAA7]


def run(values, **params):
    return registry.get("text.minhash@1").run(pa.table({"text": pa.array(values, pa.string())}), params)


def test_golden_vectors():
    a, b = permutations(112)
    assert (a[0], b[0], a[111], b[111]) == GOLDEN_TABLE
    made = run([GOLDEN_TEXT, "only four words here"])
    assert made.column_names == [f"minhash_b{band:02d}" for band in range(14)]
    assert made["minhash_b00"].to_pylist() == GOLDEN_B00
    assert made["minhash_b13"].to_pylist() == GOLDEN_B13


def test_case_and_punctuation_do_not_matter_and_short_texts_have_one_shingle():
    made = run(["Only four words here!", "only   FOUR words -- here", "only four words", "...", None])
    first, second, third, nothing, null = made["minhash_b00"].to_pylist()
    assert first == second != third
    assert nothing is None and null is None


def test_signature_estimates_jaccard_similarity():
    draw = random.Random(5)
    errors = []
    for _ in range(30):
        words = [f"w{draw.randrange(400)}" for _ in range(400)]
        other = [word if draw.random() > 0.03 else f"z{draw.randrange(10**6)}" for word in words]
        one, two = " ".join(words), " ".join(other)
        s1, s2 = set(shingles_of(one, 5)), set(shingles_of(two, 5))
        left, right = run([one, two], signature=True)["minhash_signature"].to_pylist()
        same = sum(x == y for x, y in zip(left, right, strict=True)) / 112
        errors.append(same - len(s1 & s2) / len(s1 | s2))
    assert abs(sum(errors) / len(errors)) < 0.03
    assert max(map(abs, errors)) < 0.25


def test_parameters_are_bounded():
    k = registry.get("text.minhash@1")
    for params in ({"bands": 100, "rows": 100}, {"ngram": 0}, {"bands": 0}, {"rows": "many"}):
        with pytest.raises(KernelError):
            k.output_schema(params)
    assert k.output_schema({"bands": 2, "signature": True}).names == ["minhash_b00", "minhash_b01", "minhash_signature"]
