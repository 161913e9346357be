"""The rules of the compiled ``text.quality@1``: counters to the first failing rule.

Every comparison is between exact integers or one correctly rounded float64 division and a constant, as in Python, so
that decisions equal the oracle's. It does NOT compute counters. A rule's code is its place in ``counters.RULES`` + 1;
0 means that nothing failed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from muster.kernels.compiled import helper
from muster.kernels.text_quality import counters as at

Counts = npt.NDArray[np.int64]

_MOST_TOP = (0.2, 0.18, 0.16)
_MOST_REPEATED = (0.15, 0.14, 0.13, 0.12, 0.11, 0.10)


@helper
def cheap_rule(c: Counts) -> int:
    """Try the Gopher quality rules up to the stop words."""
    words, text_words, lines = c[at.WORDS], c[at.TEXT_WORDS], c[at.LINES]
    if text_words < 50:
        return 1
    if text_words > 100_000:
        return 2
    if c[at.TEXT_WORD_CHARS] < 3 * text_words:
        return 3
    if c[at.TEXT_WORD_CHARS] > 10 * text_words:
        return 4
    if c[at.HASHES] / words > 0.1:
        return 5
    if c[at.ELLIPSES] / words > 0.1:
        return 6
    if c[at.BULLET_LINES] / lines > 0.9:
        return 7
    if c[at.ELLIPSIS_LINES] / lines > 0.3:
        return 8
    if c[at.ALPHA_WORDS] / words < 0.8:
        return 9
    return 0


@helper
def piece_rule(c: Counts) -> int:
    """Try the FineWeb rules, for a document with words."""
    if c[at.PUNCTUATED_LINES] / c[at.FILLED_LINES] < 0.12:
        return 11
    if c[at.SHORT_LINES] / c[at.FILLED_LINES] > 0.67:
        return 12
    if c[at.DUP_FILLED_LINE_CHARS] / (c[at.CHARS] - c[at.NEWLINES]) > 0.01:
        return 13
    if c[at.NEWLINES] / c[at.WORDS] > 0.3:
        return 14
    return 0


@helper
def repetition_rule(c: Counts) -> int:
    """Try the Gopher repetition rules on paragraphs and lines, for a document that is not empty."""
    if c[at.DUP_PARAGRAPHS] / c[at.PARAGRAPHS] > 0.3:
        return 15
    if c[at.DUP_PARAGRAPH_CHARS] / c[at.CHARS] > 0.2:
        return 16
    if c[at.DUP_SEGMENTS] / c[at.SEGMENTS] > 0.3:
        return 17
    if c[at.DUP_SEGMENT_CHARS] / c[at.CHARS] > 0.2:
        return 18
    return 0


@helper
def top_gram_rule(c: Counts) -> int:
    """Try the Gopher repetition rules on the most frequent n-grams."""
    for k in range(3):
        if c[at.TOP_2_GRAM_CHARS + k] / c[at.CHARS] > _MOST_TOP[k]:
            return 19 + k
    return 0


@helper
def repeated_gram_rule(c: Counts, n: int) -> int:
    """Try the Gopher repetition rule on repeated ``n``-grams."""
    return 17 + n if c[at.DUP_5_GRAM_CHARS + n - 5] / c[at.CHARS] > _MOST_REPEATED[n - 5] else 0
