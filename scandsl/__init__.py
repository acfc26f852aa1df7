"""scandsl: a compiler for recurrences.  Write the step; it finds the parallel form.

`load` compiles a `.scan` file and returns the generated module.
"""

from __future__ import annotations

__version__ = "0.1.0"

from scandsl.loader import load

__all__ = ["__version__", "load"]
