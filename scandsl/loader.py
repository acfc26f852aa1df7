"""From a `.scan` file to an imported module, through a cached real file.

In: a path and options.  Out: the generated module.  The file lies in the user's cache directory
(`SCANDSL_CACHE_DIR`, else the platform's), because Triton reads the source of its kernels from
disk.  Its name holds a hash of the spec, the options and the compiler itself, so it is never stale.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import stat
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib.machinery import SourceFileLoader
from pathlib import Path
from threading import RLock
from types import CodeType, ModuleType
from typing import TYPE_CHECKING

from scandsl.diagnostics import Diagnostic, ScanError, Source, Span

if TYPE_CHECKING:
    from scandsl.driver import Options
    from scandsl.plan.launches import Table

_PACKAGE = Path(__file__).resolve().parent
_lock = RLock()
MOST_BYTES = 16 * 2**20
"""Of a file that holds more, or never ends, this much is read: far more than a spec may have."""
_UNFINISHED = ".tmp"
_ABANDONED = 3600.0  # seconds after which an unfinished file is nobody's


def load(
    path: str | os.PathLike[str],
    *,
    settings: Mapping[str, int] | None = None,
    form: str | None = None,
    chunk: int | None = None,
    schedule: str | None = None,
    tuned: str | os.PathLike[str] | None = None,
) -> ModuleType:
    """Compile a `.scan` file and return its module; compiled once per content and options.

    `settings` gives values to statics, `form` ("sequential", ...), `chunk` and `schedule` ("fused",
    "split") force a plan; `tuned` is a file of launches that `scandsl tune` measured.
    """
    launches = None if tuned is None else read_launches(Path(tuned))
    options = _options(settings, form, chunk, schedule, launches)
    file = cached_module(path, options)
    return import_file(file, f"scandsl_cache.{file.stem}")


_SEAL = "# scandsl cache "  # the last line of a cache entry: the hash of all before it


def _options(
    settings: Mapping[str, int] | None,
    form: str | None,
    chunk: int | None,
    schedule: str | None,
    launches: Table | None,
) -> Options:
    from scandsl.driver import Options

    return Options(dict(settings or {}), form, chunk, schedule, launches)


def read_launches(file: Path) -> Table:
    """What `scandsl tune` wrote; a file that is something else is an `OptionError`."""
    from scandsl.driver import OptionError
    from scandsl.plan.launches import TableError, parse

    try:
        return parse(file.read_text(encoding="utf-8"), os.fspath(file))
    except TableError as error:
        raise OptionError(str(error)) from None
    except UnicodeDecodeError:
        raise OptionError(f"{file}: no file of `scandsl tune`: it is not text") from None


def cached_module(path: str | os.PathLike[str], options: Options | None = None) -> Path:
    """The generated file for a spec in the cache, written if it is not there."""
    from scandsl.driver import Options, compile_source
    from scandsl.plan.launches import digest

    source = read_source(path)
    options = options or Options()
    words = [source.text, repr(sorted(options.settings.items()))]
    words.append(repr((options.form, options.chunk, options.schedule)))
    if options.launches is not None:
        words.append(repr((digest(options.launches.entries), options.launches.open)))
    key = hashlib.sha256("\0".join([Path(path).name, *words, compiler_hash()]).encode())
    stem = re.sub(r"\W", "_", Path(path).stem)
    file = cache_directory() / f"{stem}_{key.hexdigest()[:16]}.py"
    if not _intact(file):
        write_atomic(file, _sealed(compile_source(source, options).module))
    return file


def _sealed(text: str) -> str:
    """A module with a last line by which a damaged one is told."""
    return f"{text}{_SEAL}{hashlib.sha256(text.encode()).hexdigest()}\n"


def _intact(file: Path) -> bool:
    """Whether a cache entry is there, and whole."""
    try:
        data = file.read_bytes()
    except OSError:
        return False
    text, mark, seal = data.rpartition(_SEAL.encode())
    return bool(mark) and seal.strip() == hashlib.sha256(text).hexdigest().encode()


class CacheLoader(SourceFileLoader):
    """Imports a generated file; bytecode beside it that is damaged is passed over."""

    def get_code(self, fullname: str) -> CodeType | None:
        """The code of the module, from its source if the bytecode cannot be read."""
        try:
            return super().get_code(fullname)
        except (EOFError, ValueError, TypeError, ImportError):
            return self.source_to_code(self.get_data(self.path), self.path)


def import_file(file: Path, name: str) -> ModuleType:
    """Import a Python file under a name; the same name is imported once."""
    with _lock:
        if name in sys.modules:
            return sys.modules[name]
        loader = CacheLoader(name, os.fspath(file))
        spec = importlib.util.spec_from_file_location(name, file, loader=loader)
        if spec is None or spec.loader is None:
            raise ImportError(f"{file} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        return module


def read_source(path: str | os.PathLike[str]) -> Source:
    """The text of a spec under the name it was given; of one beyond all limits, its beginning."""
    with Path(path).open("rb") as file:
        data = file.read(MOST_BYTES)
    if len(data) == MOST_BYTES:  # the cut may go through a character
        data = data.decode("utf-8", "ignore").encode()
    return decode(os.fspath(path), data)


def decode(name: str, data: bytes) -> Source:
    """Bytes as source text; bytes that are not UTF-8 are the user's error."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        start = len(data[: error.start].decode("utf-8-sig", "replace"))
        source = Source(name, data.decode("utf-8", "replace"))
        finding = Diagnostic("this byte is not UTF-8 text", Span(start, start + 1))
        raise ScanError(source, [finding]) from None
    return Source(name, text.replace("\r\n", "\n"))


def write_atomic(path: Path, text: str) -> None:
    """Write a file whole or not at all: into a temporary one beside it, then in its place."""
    data = text.encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name[:100]}."
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=_UNFINISHED)
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(handle)
        Path(temporary).chmod(_mode(path))
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sweep(path.parent, prefix)


def _mode(path: Path) -> int:
    """Who may read a file: as before, or as new files are made."""
    try:
        return stat.S_IMODE(path.lstat().st_mode) if path.is_file() else 0o666 & ~_umask()
    except OSError:
        return 0o666 & ~_umask()


def _sweep(folder: Path, prefix: str) -> None:
    """Take away what processes that were killed left beside a file long ago."""
    before = time.time() - _ABANDONED
    with suppress(OSError):
        for file in folder.iterdir():
            if file.name.startswith(prefix) and file.name.endswith(_UNFINISHED):
                with suppress(OSError):
                    if file.lstat().st_mtime < before:
                        file.unlink()


@cache
def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def cache_directory() -> Path:
    """Where generated modules are kept."""
    given = os.environ.get("SCANDSL_CACHE_DIR")
    if given:
        return Path(given)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "scandsl"


@cache
def compiler_hash() -> str:
    """A hash of the compiler: its version and its own sources, grammar and templates."""
    digest = hashlib.sha256()
    roots = [_PACKAGE, _PACKAGE.parent / "grammar", _PACKAGE.parent / "templates"]
    files = {p for root in roots for p in root.rglob("*") if p.is_file() and p.suffix != ".pyc"}
    for file in sorted(files):
        digest.update(f"{file.name}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()
