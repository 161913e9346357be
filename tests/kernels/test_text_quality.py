"""``text.quality@1``: golden counters, every rule, modes that agree, pinned characters."""

from __future__ import annotations

import unicodedata

import pyarrow as pa
import pytest

from muster.kernels import registry
from muster.kernels.text_quality import unicode_classes as unicode
from muster.kernels.text_quality.counters import COUNTERS, RULES
from muster.kernels.text_quality.reference import characters

PROSE = (
    "It is a truth that we have often seen on pages of this kind, and the reader may well agree with it.\n"
    "Another line of quite different words follows here to make the text long enough for every rule.\n"
    "Numbers such as seven or eleven appear, but no symbols; the lines all end in a full stop as they should.\n"
)
WORDS = PROSE.split()


def run(values, **params):
    return registry.get("text.quality@1").run(pa.table({"text": pa.array(values, pa.string())}), params)


def test_golden_counters():
    text = "• The cat...\n- the #1 cat…\n\nA b. A b. A b.\r\n\n\nA b. A b. A b.\u2028x"
    row = run([text]).to_pylist()[0]
    assert row["quality_keep"] is False and row["quality_reason"] == "gopher_short_doc"
    expected = {
        "chars": 62,
        "words": 20,
        "text_words": 19,
        "text_word_chars": 38,
        "alpha_words": 17,
        "stop_words": 1,
        "hashes": 1,
        "ellipses": 2,
        "lines": 8,
        "bullet_lines": 2,
        "ellipsis_lines": 2,
        "newlines": 6,
        "filled_lines": 4,
        "punctuated_lines": 1,
        "short_lines": 4,
        "dup_filled_line_chars": 0,
        "segments": 4,
        "paragraphs": 3,
        "top_2_gram_chars": 24,
    }
    assert {name: row[f"quality_{name}"] for name in expected} == expected


def test_reasons():
    cases = {
        None: PROSE,
        "gopher_short_doc": "too short",
        "gopher_below_avg_threshold": "a bc " * 60,
        "gopher_above_avg_threshold": "abcdefghijkl mnopqrstuvwx " * 40,
        "gopher_too_many_hashes": PROSE + "# " * 20,
        "gopher_too_many_ellipsis": PROSE.replace(" ", "... ", 20),
        "gopher_too_many_bullets": "- " + PROSE.replace("\n", "\n- ")[:-2],
        "gopher_too_many_end_ellipsis": PROSE.replace(".\n", "...\n"),
        "gopher_below_alpha_threshold": PROSE + "12345 " * 40,
        "gopher_enough_stop_words": "several other words without any common ones " * 10,
        "line_punct_ratio": PROSE.replace(".\n", "\n"),
        "short_line_ratio": ".\n".join(" ".join(WORDS[i : i + 4]) + " " for i in range(0, len(WORDS), 4)),
        "char_dup_ratio": PROSE * 2,
        "list_ratio": PROSE.replace("\n", "\n" * 12),
        "top_2_gram": PROSE + "the very " * 20 + "end.",
    }
    for reason, text in cases.items():
        made = run([text]).to_pylist()[0]
        assert (made["quality_reason"], made["quality_keep"]) == (reason, reason is None), reason


def test_repetition_rules_are_reached_by_counters_alone():
    long = "".join(f"Line number {i} of the text says something with and without a point to have.\n" for i in range(80))
    made = run([long]).to_pylist()[0]
    assert made["quality_reason"] in RULES[18:]
    assert made["quality_dup_5_gram_chars"] > 0.15 * made["quality_chars"]


def test_decide_mode_is_the_first_two_columns_of_all():
    values = [PROSE, PROSE * 3, "", None, "a " * 70, PROSE.upper()]
    every, decision = run(values), run(values, mode="decide")
    assert decision.column_names == ["quality_keep", "quality_reason"]
    assert decision.equals(every.select(decision.column_names))
    assert every.column_names[2:] == [f"quality_{name}" for name in COUNTERS]


@pytest.mark.skipif(unicodedata.unidata_version != "14.0.0", reason="the tables are pinned to Unicode 14.0.0")
def test_pinned_characters_are_those_of_unicode_14():
    every = [chr(code) for code in range(0x110000)]
    assert characters(unicode.LETTERS) == {char for char in every if char.isalpha()}


def test_pinned_whitespace_and_line_breaks_are_python_s():
    every = [chr(code) for code in range(0x110000)]
    assert characters(unicode.WHITESPACE) == {char for char in every if char.isspace()}
    assert characters(unicode.LINE_BREAKS) == {char for char in every if len(f"a{char}b".splitlines()) == 2}
    assert len(characters(unicode.PUNCTUATION)) > 100
    assert {".", "!", "?", "。"} <= characters(unicode.TERMINAL_PUNCTUATION)
