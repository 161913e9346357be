"""Names and order of the counters and of the rules of ``text.quality@1``. No computing here.

Invariants: ``COUNTERS`` is the order of the output columns and of the compiled version's vector; ``RULES`` is the order
in which rules are tried, so that the reason is the first rule that fails: Gopher quality, FineWeb, Gopher repetition,
each in datatrove's own order, which is also cheapest first.
"""

from __future__ import annotations

COUNTERS = (
    "chars",  # code points
    "words",  # runs between whitespace
    "text_words",  # words with a character that is not punctuation
    "text_word_chars",  # code points in those
    "alpha_words",  # words with a letter
    "stop_words",  # how many of STOP_WORDS occur
    "hashes",  # "#"
    "ellipses",  # "..." (not overlapping) and U+2026
    "lines",  # of str.splitlines
    "bullet_lines",  # beginning with "-" or U+2022 after whitespace
    "ellipsis_lines",  # ending with an ellipsis before whitespace
    "newlines",  # "\n"
    "filled_lines",  # pieces between newlines that are not only whitespace
    "punctuated_lines",  # of those: ending with terminal punctuation
    "short_lines",  # of those: at most 30 code points
    "dup_filled_line_chars",  # code points of those that occurred before
    "segments",  # pieces between runs of newlines
    "dup_segments",  # of those: occurred before
    "dup_segment_chars",
    "paragraphs",  # pieces of the stripped text between two or more newlines
    "dup_paragraphs",
    "dup_paragraph_chars",
    "top_2_gram_chars",  # code points of the most frequent 2-gram with one space, times its count
    "top_3_gram_chars",
    "top_4_gram_chars",
    "dup_5_gram_chars",  # code points in repeated 5-grams, not overlapping
    "dup_6_gram_chars",
    "dup_7_gram_chars",
    "dup_8_gram_chars",
    "dup_9_gram_chars",
    "dup_10_gram_chars",
)
N_COUNTERS = len(COUNTERS)

(
    CHARS,
    WORDS,
    TEXT_WORDS,
    TEXT_WORD_CHARS,
    ALPHA_WORDS,
    STOP_WORDS_FOUND,
    HASHES,
    ELLIPSES,
    LINES,
    BULLET_LINES,
    ELLIPSIS_LINES,
    NEWLINES,
    FILLED_LINES,
    PUNCTUATED_LINES,
    SHORT_LINES,
    DUP_FILLED_LINE_CHARS,
    SEGMENTS,
    DUP_SEGMENTS,
    DUP_SEGMENT_CHARS,
    PARAGRAPHS,
    DUP_PARAGRAPHS,
    DUP_PARAGRAPH_CHARS,
    TOP_2_GRAM_CHARS,
) = range(23)
DUP_5_GRAM_CHARS = 25

RULES = (
    "gopher_short_doc",
    "gopher_long_doc",
    "gopher_below_avg_threshold",
    "gopher_above_avg_threshold",
    "gopher_too_many_hashes",
    "gopher_too_many_ellipsis",
    "gopher_too_many_bullets",
    "gopher_too_many_end_ellipsis",
    "gopher_below_alpha_threshold",
    "gopher_enough_stop_words",
    "line_punct_ratio",
    "short_line_ratio",
    "char_dup_ratio",
    "list_ratio",
    "dup_para_frac",
    "dup_para_char_frac",
    "dup_line_frac",
    "dup_line_char_frac",
    "top_2_gram",
    "top_3_gram",
    "top_4_gram",
    "duplicated_5_n_grams",
    "duplicated_6_n_grams",
    "duplicated_7_n_grams",
    "duplicated_8_n_grams",
    "duplicated_9_n_grams",
    "duplicated_10_n_grams",
)

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
SHORT_LINE_CHARS = 30
