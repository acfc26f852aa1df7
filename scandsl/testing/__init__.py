"""Judging generated modules: data from declared ranges, comparison with the reference.

`scandsl test` is the command in front of it; the tests of the project use it too.
"""

from __future__ import annotations
