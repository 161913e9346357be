"""``text.quality@1`` in plain Python: the oracle that the compiled version must equal in every counter.

It does NOT try to be fast, and shares nothing with the compiled version but the tables of characters and names. It
follows huggingface/datatrove 0.10.1 (``gopher_quality_filter.py``, ``gopher_repetition_filter.py``,
``fineweb_quality_filter.py``) with words from ``str.split``, on pinned character classes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from functools import cache

from muster.kernels.text_quality import unicode_classes as unicode
from muster.kernels.text_quality.counters import SHORT_LINE_CHARS, STOP_WORDS


@cache
def characters(table: str) -> frozenset[str]:
    """Return the characters of a pinned table."""
    return frozenset(chr(code) for first, end in unicode.runs(table) for code in range(first, end))


def is_space(char: str) -> bool:
    """Whether ``str.split`` would split at ``char``."""
    return char in characters(unicode.WHITESPACE)


def split_words(text: str) -> list[str]:
    """Do what ``str.split`` does, with the pinned whitespace."""
    return "".join(" " if is_space(char) else char for char in text).split(" ") if text else []


def strip(text: str) -> str:
    """Do what ``str.strip`` does, with the pinned whitespace."""
    return text.strip("".join(characters(unicode.WHITESPACE)))


def split_lines(text: str) -> list[str]:
    """Do what ``str.splitlines`` does, with the pinned line breaks."""
    breaks = "".join(sorted(characters(unicode.LINE_BREAKS)))
    lines = re.split(f"\r\n|[{re.escape(breaks)}]", text)
    return lines[:-1] if lines[-1] == "" else lines


def duplicates(pieces: list[str]) -> tuple[int, int]:
    """Return how many pieces occurred before, and their code points."""
    seen: set[str] = set()
    count = chars = 0
    for piece in pieces:
        if piece in seen:
            count += 1
            chars += len(piece)
        seen.add(piece)
    return count, chars


def top_gram_chars(words: list[str], n: int) -> int:
    """Return count times length of the most frequent n-gram, the first of them at a tie; 0 if there is none."""
    grams = Counter(" ".join(words[i : i + n]) for i in range(len(words) - n + 1))
    if not grams:
        return 0
    most = max(grams.values())
    return most * len(next(gram for gram, count in grams.items() if count == most))


def repeated_gram_chars(words: list[str], n: int) -> int:
    """Return the code points in n-grams that occurred before (words joined without space), not overlapping."""
    seen: set[str] = set()
    chars = at = 0
    while at <= len(words) - n:
        gram = "".join(words[at : at + n])
        if gram in seen:
            chars += len(gram)
            at += n
        else:
            seen.add(gram)
            at += 1
    return chars


def counters_of(text: str) -> dict[str, int]:
    """Return every counter of a document, named as in ``counters.COUNTERS``."""
    words = [word for word in split_words(text) if word]
    c = {"chars": len(text), "words": len(words)}
    punctuation, letters = characters(unicode.PUNCTUATION), characters(unicode.LETTERS)
    text_words = [word for word in words if any(char not in punctuation for char in word)]
    c["text_words"] = len(text_words)
    c["text_word_chars"] = sum(map(len, text_words))
    c["alpha_words"] = sum(any(char in letters for char in word) for word in words)
    c["stop_words"] = len(set(STOP_WORDS) & set(words))
    c["hashes"] = text.count("#")
    c["ellipses"] = text.count("...") + text.count("\u2026")
    lines = split_lines(text)
    c["lines"] = len(lines)
    c["bullet_lines"] = sum(strip(line).startswith(("-", "\u2022")) for line in lines)
    c["ellipsis_lines"] = sum(strip(line).endswith(("...", "\u2026")) for line in lines)
    _count_pieces(text, c)
    for n in (2, 3, 4):
        c[f"top_{n}_gram_chars"] = top_gram_chars(words, n)
    for n in range(5, 11):
        c[f"dup_{n}_gram_chars"] = repeated_gram_chars(words, n)
    return c


def _count_pieces(text: str, c: dict[str, int]) -> None:
    c["newlines"] = text.count("\n")
    filled = [line for line in text.split("\n") if strip(line)]
    c["filled_lines"] = len(filled)
    c["punctuated_lines"] = sum(line[-1] in characters(unicode.TERMINAL_PUNCTUATION) for line in filled)
    c["short_lines"] = sum(len(line) <= SHORT_LINE_CHARS for line in filled)
    c["dup_filled_line_chars"] = duplicates(filled)[1]
    segments = re.split("\n+", text)
    c["segments"] = len(segments)
    c["dup_segments"], c["dup_segment_chars"] = duplicates(segments)
    paragraphs = re.split("\n{2,}", strip(text))
    c["paragraphs"] = len(paragraphs)
    c["dup_paragraphs"], c["dup_paragraph_chars"] = duplicates(paragraphs)


def failures(c: dict[str, int]) -> Iterator[str]:
    """Yield the rules that fail, in order: the first one is the reason."""
    yield from gopher_quality_failures(c)
    yield from fineweb_failures(c)
    yield from gopher_repetition_failures(c)


def gopher_quality_failures(c: dict[str, int]) -> Iterator[str]:
    """Yield the failing rules of the Gopher quality filter (Rae et al. 2021, arXiv:2112.11446, table A1)."""
    if c["text_words"] < 50:
        yield "gopher_short_doc"
    if c["text_words"] > 100_000:
        yield "gopher_long_doc"
    if c["text_word_chars"] < 3 * c["text_words"]:
        yield "gopher_below_avg_threshold"
    if c["text_word_chars"] > 10 * c["text_words"]:
        yield "gopher_above_avg_threshold"
    if c["words"] == 0:
        return
    if c["hashes"] / c["words"] > 0.1:
        yield "gopher_too_many_hashes"
    if c["ellipses"] / c["words"] > 0.1:
        yield "gopher_too_many_ellipsis"
    if c["bullet_lines"] / c["lines"] > 0.9:
        yield "gopher_too_many_bullets"
    if c["ellipsis_lines"] / c["lines"] > 0.3:
        yield "gopher_too_many_end_ellipsis"
    if c["alpha_words"] / c["words"] < 0.8:
        yield "gopher_below_alpha_threshold"
    if c["stop_words"] < 2:
        yield "gopher_enough_stop_words"


def fineweb_failures(c: dict[str, int]) -> Iterator[str]:
    """Yield the failing rules of the FineWeb quality filter (Penedo et al. 2024) for a document with words."""
    if c["words"] == 0:
        return
    if c["punctuated_lines"] / c["filled_lines"] < 0.12:
        yield "line_punct_ratio"
    if c["short_lines"] / c["filled_lines"] > 0.67:
        yield "short_line_ratio"
    if c["dup_filled_line_chars"] / (c["chars"] - c["newlines"]) > 0.01:
        yield "char_dup_ratio"
    if c["newlines"] / c["words"] > 0.3:
        yield "list_ratio"


def gopher_repetition_failures(c: dict[str, int]) -> Iterator[str]:
    """Yield the failing rules of the Gopher repetition filter for a text that is not empty."""
    if c["chars"] == 0:
        return
    if c["dup_paragraphs"] / c["paragraphs"] > 0.3:
        yield "dup_para_frac"
    if c["dup_paragraph_chars"] / c["chars"] > 0.2:
        yield "dup_para_char_frac"
    if c["dup_segments"] / c["segments"] > 0.3:
        yield "dup_line_frac"
    if c["dup_segment_chars"] / c["chars"] > 0.2:
        yield "dup_line_char_frac"
    for n, most in ((2, 0.2), (3, 0.18), (4, 0.16)):
        if c[f"top_{n}_gram_chars"] / c["chars"] > most:
            yield f"top_{n}_gram"
    for n, most in ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10)):
        if c[f"dup_{n}_gram_chars"] / c["chars"] > most:
            yield f"duplicated_{n}_n_grams"
