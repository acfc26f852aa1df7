"""Packaging: what a wheel and an editable install hold, and what the make targets rely on."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROBE = (
    "from scandsl.syntax.grammar_file import grammar_path, grammar_text; import scandsl;"
    "assert 'scan' in grammar_text(); print(grammar_path()); print(scandsl.__file__)"
)


def run(*command: str, cwd: Path, path: str | None = None) -> str:
    env = None if path is None else {"PYTHONPATH": path, "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling")
    pytest.importorskip("build")
    out = tmp_path_factory.mktemp("wheel")
    build = (sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), ".")
    run(*build, cwd=ROOT)
    (found,) = out.glob("scandsl-*.whl")
    return found


def test_the_wheel_holds_grammar_and_templates(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("grammar", "templates"):
        files = [p for p in (ROOT / folder).rglob("*") if p.is_file()]
        assert files or folder == "templates"
        for file in files:
            assert f"scandsl/{file.relative_to(ROOT).as_posix()}" in names
    assert {"scandsl/cli.py", "scandsl/py.typed", "scandsl/ir/nodes.py"} <= names
    assert "scandsl/plan/launches.json" in names
    assert not any(name.startswith(("tests/", "examples/")) for name in names)
    (entry,) = [n for n in names if n.endswith("entry_points.txt")]
    assert "scandsl = scandsl.cli:main" in zipfile.ZipFile(wheel).read(entry).decode()


def test_an_unpacked_wheel_finds_its_own_grammar(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    site = [str(tmp_path / "site"), *(p for p in sys.path if "site-packages" in p)]
    out = run(sys.executable, "-c", PROBE, cwd=tmp_path, path=":".join(site))
    assert Path(out.split()[0]) == tmp_path / "site" / "scandsl" / "grammar" / "scan.lark"


def test_a_checkout_finds_the_grammar_beside_the_package(tmp_path: Path) -> None:
    out = run(sys.executable, "-c", PROBE, cwd=tmp_path, path=str(ROOT))
    grammar, package = map(Path, out.split())
    assert grammar == ROOT / "grammar" / "scan.lark"
    assert package == ROOT / "scandsl" / "__init__.py"


def test_continuous_integration_calls_the_make_targets() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "make check" in script
    assert "make test" in script
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_the_readme_opens_with_the_two_commands() -> None:
    head = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:8]
    assert any(line.startswith("make demo") for line in head)
    assert any(line.startswith("make test") for line in head)
