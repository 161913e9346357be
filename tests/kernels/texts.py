"""Texts for kernel tests: hypothesis strategies that reach the odd corners, and a few fixed hard cases."""

from __future__ import annotations

import sysconfig
from pathlib import Path

from hypothesis import strategies as st

PIECES = [
    *"abz019.,#-!?{}\x00\x1f",
    *" \t\n\r\v\f\x1c\x1d\x1e\x85\xa0\u2028\u2029\u3000\u200b",
    *"éßİǅ文字。？…•𝒳😀\U0010ffff\ufffd\u0301",
    "the",
    "be",
    "to",
    "of",
    "and",
    "have",
    "with",
    "word",
    "longer-word-of-bytes",
    "\r\n",
    "\n\n",
    "...",
    "....",
    "1234567",
    "12345678",
    "123456789",
    "ab ab ab ab ab ",
    "• item\n",
    "- item...\n",
    "a sentence that comes again and again. ",
]

texts = st.one_of(
    st.text(max_size=80),
    st.lists(st.sampled_from(PIECES), max_size=60).map("".join),
    st.lists(st.sampled_from([*"abc", " ", " ", "\n"]), max_size=200).map("".join),
    st.builds(lambda piece, n: piece * n, st.sampled_from(PIECES), st.integers(0, 400)),
)
columns = st.lists(st.none() | texts, max_size=8)

HARD = [
    "",
    " ",
    "\n",
    "\n\n",
    "\r\n\r\n",
    "a",
    "a b",
    "a\x00 a \x00a \x00 to\x00 to",
    "x " * 3000,
    "xy" * 5000,
    "é " * 500,
    "\u3000x\u2028y\x85z\x1cq\r",
    "𝒳𝒴 𝒳𝒴 " * 30,
    "• a\r\n- b...\r\n\r\n\r\nb…  \n",
    "one two three four",
    "one two three four five",
    "aa b aab aa b aab a ab " * 20,
    "1234567 12345678 123456789 1234567\x00 " * 8,
    "".join(f"word{i} " for i in range(3000)) * 2,
    "\n".join(f"Line {i % 7} of this document ends here." for i in range(300)),
]


def real_documents(limit: int) -> list[str]:
    """Read text files of the running interpreter's standard library."""
    found: list[str] = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if len(found) == limit:
            break
        try:
            text = path.read_bytes().decode()
        except UnicodeDecodeError:
            continue
        if len(text) < 60_000:
            found.append(text)
    return found
