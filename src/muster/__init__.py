"""Muster: batch computing on machines that nobody controls, with verified results.

The import root. It imports nothing by itself, so that ``muster --help`` and a volunteer start fast.
"""

__version__ = "0.1.0"
