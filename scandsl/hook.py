"""An import hook: after `install()`, `import x` finds `x.scan` on `sys.path`.

In: nothing.  Out: a finder at the end of `sys.meta_path`, so Python modules keep precedence.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

from scandsl.loader import CacheLoader, cached_module


class ScanFinder:
    """Finds `x.scan` where `x.py` would be looked for, and compiles it into the cache."""

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module of a spec file, or `None` when there is none of that name."""
        del target
        for entry in sys.path if path is None else path:
            file = Path(entry or ".") / f"{name.rpartition('.')[2]}.scan"
            if file.is_file():
                generated = str(cached_module(file))
                return spec_from_file_location(name, generated, loader=CacheLoader(name, generated))
        return None


def install() -> None:
    """Let `import` find `.scan` files; doing it again changes nothing."""
    if ScanFinder not in sys.meta_path:
        sys.meta_path.append(ScanFinder)


def uninstall() -> None:
    """Take the hook out again."""
    if ScanFinder in sys.meta_path:
        sys.meta_path.remove(ScanFinder)
