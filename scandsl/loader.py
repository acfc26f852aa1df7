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
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from threading import RLock
from types import ModuleType

from scandsl.diagnostics import Diagnostic, ScanError, Source, Span

_PACKAGE = Path(__file__).resolve().parent
_lock = RLock()


def load(
    path: str | os.PathLike[str],
    *,
    settings: Mapping[str, int] | None = None,
    form: str | None = None,
    chunk: int | None = None,
    schedule: str | None = None,
) -> ModuleType:
    """Compile a `.scan` file and return its module; compiled once per content and options.

    `settings` gives values to statics, `form` ("sequential", ...), `chunk` and `schedule` ("fused",
    "split") force a plan.
    """
    file = cached_module(path, settings=settings, form=form, chunk=chunk, schedule=schedule)
    return import_file(file, f"scandsl_cache.{file.stem}")


def cached_module(
    path: str | os.PathLike[str],
    *,
    settings: Mapping[str, int] | None = None,
    form: str | None = None,
    chunk: int | None = None,
    schedule: str | None = None,
) -> Path:
    """The generated file for a spec in the cache, written if it is not there."""
    from scandsl.driver import Options, compile_source

    source = read_source(path)
    options = Options(dict(settings or {}), form, chunk, schedule)
    words = [source.text, repr(sorted(options.settings.items())), repr((form, chunk, schedule))]
    key = hashlib.sha256("\0".join([Path(path).name, *words, compiler_hash()]).encode())
    stem = re.sub(r"\W", "_", Path(path).stem)
    file = cache_directory() / f"{stem}_{key.hexdigest()[:16]}.py"
    if not file.is_file():
        write_atomic(file, compile_source(source, options).module)
    return file


def import_file(file: Path, name: str) -> ModuleType:
    """Import a Python file under a name; the same name is imported once."""
    with _lock:
        if name in sys.modules:
            return sys.modules[name]
        spec = importlib.util.spec_from_file_location(name, file)
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
    """The text of a spec under the name it was given."""
    return decode(os.fspath(path), Path(path).read_bytes())


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
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as out:
            out.write(text)
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


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
