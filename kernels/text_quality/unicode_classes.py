"""Character classes of ``text.quality@1``, pinned: the running interpreter's Unicode version must not matter.

Generated once from Python 3.11 (Unicode 14.0.0) and from datatrove 0.10.1 (Apache-2.0, ``datatrove/utils/text.py``).
Each table is a list of runs in hexadecimal: ``gap+length``, counted from the end of the run before; ``gap`` alone is a
run of one. It does NOT follow later Unicode versions: that is a new version of the kernel.
"""

from __future__ import annotations

WHITESPACE = """
9+5 e+5 64 1a 15df 97f+b 1d+2 5 2f fa0
"""
"""Code points for which Python's ``str.isspace`` is true, which are those that ``str.split`` and ``str.strip`` use."""

LINE_BREAKS = """
a+4 e+3 66 1fa2+2
"""
"""Code points at which ``str.splitlines`` ends a line."""

LETTERS = """
41+1a 6+1a 2f a 4 5+17 1+1f 1+1ca 4+c e+5 7 1 81+5 1+2 2+4 1 6 1+3 1 1+14 1+53 1+8b 8+a6 1+26 2 6+29 47+1b 4+4 2d+2b
23+2 1+63 1 f+2 7+2 a+3 2 10 1+1e 1d+59 b 18+21 9+2 4 5+16 4 9 3 17+19 7+b 5+18 1+6 11+2a 3a+36 3 12 7+a f+10 4+8 2+2
2+16 1+7 1 3+4 3 10 d+2 1+3 e+2 a 8+6 4+2 2+16 1+7 1+2 1+2 1+2 1f+4 1 13+3 10+9 1+3 1+16 1+7 1+2 1+5 3 12 f+2 17 b+8
2+2 2+16 1+7 1+2 1+5 3 1e+2 1+3 f 11 1+6 3+3 1+4 3+2 1 1+2 3+2 3+3 3+c 16 34+8 1+3 1+17 1+10 3 1a+3 2 2+2 1e 4+8 1+3
1+17 1+a 1+5 3 1f+2 1+2 f+2 11+9 1+3 1+29 2 10 5+3 8+3 18+6 5+12 3+18 1+9 1 2+7 3a+30 1+2 c+7 3a+2 1 1+5 1+18 1 1+a
1+2 9 2+5 1 15+4 20 3f+8 1+24 1b+5 73+2b 14 10+6 4+4 3 3+2 7+3 4+d c 11+26 1 5 2+2b 1+14d 1+4 2+7 1 1+4 2+29 1+4 2+21
1+4 2+7 1 1+4 2+f 1+39 1+4 2+43 25+10 10+56 2+6 3+26c 2+11 1+1a 5+4b 6+8 7+12 d+13 e+12 e+d 1+3 f+34 23 4 43+59 7+5
2+22 1 5+46 a+1f 31+1e 2+5 b+2c 4+1a 36+17 9+35 52 5d+2f 11+8 36+1e d+2 a+2c 1a+24 29+3 a+24 2+9 7+2b 2+3 29+4 1+6 1+2
3 5+c0 40+116 2+6 2+26 2+6 2+8 1 1 1 1+1f 2+35 1+7 1 3+3 1+7 3+4 2+6 4+d 5+3 1+7 74 d 10+d 65 4 2+a 1 3+5 6 1 1 1+4
1+b 2+4 5+5 4 34+2 a7b+e5 6+4 3+2 c+26 1 5 2+38 7 10+17 9+7 1+7 1+7 1+7 1+7 1+7 1+7 1+7 50 1d5+2 2a+5 5+2 4+56 6+3
1+5a 1+4 5+2b 1+5e 11+20 30+10 200+19c0 40+568d 43+2e 2+10d 3+10 a+2 14+2f 10+1f 2+46 31+9 2+67 2+40 5+2 1 1+5 18+10
1+3 1+4 1+17 1d+34 e+32 3e+6 3 1+2 b+1c a+17 19+1d 7+2f 1c 10+5 1+a a+5 1+29 17+3 1+8 14+17 3 3+32 1 3+2 2+5 2 1 18+3
2+b 7+3 c+6 2+6 2+6 9+7 1+7 1+2b 1+e 6+73 1d+2ba4 c+17 4+31 2104+16e 2+6a 26+7 c+5 5 1+a 1+d 1+5 1 1+2 1+2 1+6c 21+16b
12+40 2+36 28+c 74+5 1+87 24+1a 6+1a b+59 3+6 2+6 2+6 2+3 23+c 1+1a 1+13 1+2 1+f 2+e 22+7b 185+1d 3+31 2f+20 d+14 1+8
6+26 a+1e 2+24 4+8 30+9e 12+24 4+24 4+28 8+34 c+b 1+f 1+7 1+2 1+b 1+f 1+7 1+2 43+137 9+16 a+8 18+6 1+2a 1+9 45+6 2
1+2c 1+2 3 2+17 a+17 9+1f 41+13 1+2 a+16 a+1a 46+38 6+2 40 f+4 1+3 1+1d 2a+1d 3+1d 23+8 1+1c 1b+36 a+16 a+13 d+12
6e+49 37+33 d+33 d+24 15c+2a 6+2 4e+1d a 8+16 2a+12 2e+15 1b+17 c+35 39+2 2 d+2d 20+19 1a+24 1d 2 8+23 3 c+30 e+4 15 1
23+12 1+19 54+7 1 1+4 1+f 1+a 7+2f 26+8 2+2 2+16 1+7 1+2 1+5 3 12 c+5 9e+35 12+4 14+3 1e+30 14+2 1 b8+2f 29+4 24+30 14
3b+2b d 47+1b 25+7 b9+2c 74+40 1f+8 2 2+8 1+2 1+18 f 1 5e+8 2+27 10 1 1c a+28 7 15 b+2e 13 12+49 107+9 1+25 11 31+1e
70+7 1+2 1+26 15 19+6 1+2 1+20 e 147+13 bd 4f+39a e6+c4 a4c+61 f+42f fd1+247 21b9+239 7+1f 11+4f 11+1e 12+30 10+4
1f+15 5+13 2b0+40 80+4b 5 42+d 40+2 1 1c+17f8 8+4d6 2a+9 22e7+4 1+7 1+2 1+123 2d+3 11+4 8+18c 904+6b 5+d 3+9 7+a
1766+55 1+47 1+2 2 2+2 2+4 1+c 1 1+7 1+41 1+4 2+8 1+7 1+1c 1+4 1+5 1 3+7 1+154 2+19 1+19 1+1f 1+19 1+1f 1+19 1+1f 1+19
1+1f 1+19 1+8 734+1f 1e1+2d a+7 10 141+1e 12+2c 4f4+7 1+4 1+2 1+f 1+c5 3b+44 7 4b4+4 1+1b 1+2 1 2 1+a 1+4 1 1 6 4 1 1
1+3 1+2 1 2 1 1 1 1 1+2 1 2+4 1+7 1+4 1+4 1 1+a 1+11 5+3 1+5 1+11 1144+a6e0 20+1039 7+de 2+1682 e+1d31 c1f+21e
5e2+134b
"""
"""Code points for which ``str.isalpha`` is true (general categories Lm, Lt, Lu, Ll, Lo)."""

PUNCTUATION = """
0+9 2+15 1+f a+7 1a+6 1a+25 b 8 6 4cd 93+3 b4 2b+3 f6 3d 1 3+2 125+2 6e4+2 316 4+2 305 c6+2 9d+3 2+2 28 5 13a+2 162+4
ae+2 2+2 1d+2 bc+2 41+2 393+2 4 2+3 7 15+2 9+3 1ec 2ca b8 873 d 16+2 1ac+2 5+6 2+2 74ed 10e+2 e3 3 17e+2 56+2 5f 98+2
93+3 90+2 f9 5266 3+2 a9 3 2+2 2 1 2 8+2 3 3e 2 af4+2 4fd+5 2c+4 bd+2 75+4 7f+3 81+2 6 10+2 58+2 1+2 6c 1a1+2 175+2
5+f 69+2 f9+3 205 1 fb+2 57+2 1a4+2 2b4+2 4a+2 4b29+2 85 41+2 b 353 4e06 1de8
"""
"""datatrove's ``PUNCTUATION_SET``; a word made only of these is a symbol."""

TERMINAL_PUNCTUATION = """
21 c 10 549 93+3 b4 2b+3 f6 3d 1 3+2 125+2 6e4+2 316 4+2 305 c6+2 9d+3 2+2 28 5 13a+2 162+4 ae+2 2+2 1d+2 bc+2 41+2
3bc+2 9+3 de4 d 16+2 1ad 74fc 10e+2 e3 3 17e+2 56+2 5f 98+2 93+3 90+2 f9 5266 3+2 a9 c 10 41 af4+2 4fd+5 2c+4 bd+2
75+4 7f+3 81+2 6 10+2 58+2 1+2 6c 1a1+2 175+2 5+f 69+2 f9+3 205 1 fb+2 57+2 1a4+2 2b4+2 4a+2 4b29+2 85 41+2 b 353 4e06
1de8
"""
"""datatrove's ``TERMINAL_PUNCTUATION``: the line ends that FineWeb counts."""


def runs(table: str) -> list[tuple[int, int]]:
    """Return a table's runs as (first code point, one past the last), ascending."""
    found, at = [], 0
    for item in table.split():
        gap, _, length = item.partition("+")
        first = at + int(gap, 16)
        at = first + int(length or "1", 16)
        found.append((first, at))
    return found
