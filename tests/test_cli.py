"""The commands: what they print, write and return."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from scandsl.cli import main

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
GOOD = """\
scan leaky:
    input x[D], g in [-inf, 0]
    state h[D]
    h = exp(g) * h + x
    output y[D] = h
"""
BAD = GOOD.replace("+ x", "+ z")


def scandsl(*arguments: object, text: str | None = None) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in arguments], input=text)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def good(tmp_path: Path) -> Path:
    file = tmp_path / "leaky.scan"
    file.write_text(GOOD)
    return file


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    file = tmp_path / "wrong.scan"
    file.write_text(BAD)
    return file


# ---------------------------------------------------------------- check


def test_check_says_that_nothing_is_wrong(good: Path) -> None:
    result = scandsl("check", good)
    assert result.exit_code == 0
    assert "1 scan, nothing wrong" in result.stdout
    assert result.stderr == ""


def test_check_shows_findings_of_every_file_and_fails(good: Path, bad: Path) -> None:
    result = scandsl("check", good.parent)
    assert result.exit_code == 1
    assert f"{bad}:4:22: error:" in result.stderr
    assert "leaky.scan: 1 scan, nothing wrong" in result.stdout


def test_check_takes_settings(tmp_path: Path) -> None:
    file = EXAMPLES / "delta_product.scan"
    assert scandsl("check", file, "--set", "R=3").exit_code == 0
    assert scandsl("check", file, "--set", "Q=3").exit_code == 1
    assert scandsl("check", file, "--set", "R=many").exit_code == 2


def test_a_file_that_is_not_text_is_a_finding(tmp_path: Path) -> None:
    file = tmp_path / "bytes.scan"
    file.write_bytes(b"scan x\xff:\n")
    result = scandsl("check", file)
    assert result.exit_code == 1
    assert f"{file}:1:7: error:" in result.stderr


def test_a_folder_without_specs_is_wrong_usage(tmp_path: Path) -> None:
    assert scandsl("check", tmp_path).exit_code == 2


# ---------------------------------------------------------------- compile


def test_compile_writes_a_module_and_is_deterministic(good: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert scandsl("compile", good, "--out", out).exit_code == 0
    first = (out / "leaky.py").read_bytes()
    assert scandsl("compile", good, "--out", out).exit_code == 0
    assert (out / "leaky.py").read_bytes() == first
    assert sorted(p.name for p in out.iterdir()) == ["leaky.py"]


def test_a_failure_leaves_the_old_module_and_compiles_the_others(good: Path, bad: Path) -> None:
    out = good.parent / "out"
    out.mkdir()
    (out / "wrong.py").write_text("old")
    result = scandsl("compile", good.parent, "--out", out)
    assert result.exit_code == 1
    assert (out / "wrong.py").read_text() == "old"
    assert (out / "leaky.py").exists()


def test_compile_check_finds_stale_modules(good: Path) -> None:
    assert scandsl("compile", "--check", good).exit_code == 1
    assert not good.with_suffix(".py").exists()
    assert scandsl("compile", good).exit_code == 0
    assert scandsl("compile", "--check", good).exit_code == 0
    good.write_text(GOOD.replace("exp(g) * h", "exp(2 * g) * h"))
    result = scandsl("compile", "--check", good)
    assert result.exit_code == 1
    assert "is stale" in result.stderr


def test_two_specs_for_one_module_are_refused(good: Path) -> None:
    (good.parent / "sub").mkdir()
    (good.parent / "sub" / "leaky.scan").write_text(GOOD)
    assert scandsl("compile", good.parent, "--out", good.parent / "out").exit_code == 2


def test_a_form_may_be_forced_where_there_is_one(good: Path, tmp_path: Path) -> None:
    spec, out = EXAMPLES / "retnet.scan", tmp_path / "out"
    assert scandsl("compile", spec, "--out", out, "--form", "sequential").exit_code == 0
    forced = (out / "retnet.py").read_text()
    assert scandsl("compile", spec, "--out", out, "--chunk", "32").exit_code == 0
    assert (out / "retnet.py").read_text() != forced
    refused = scandsl("compile", EXAMPLES / "gru.scan", "--out", out, "--form", "chunk")
    assert refused.exit_code == 2
    assert "has no chunked form" in refused.stderr
    assert not (out / "gru.py").exists()


@pytest.mark.parametrize("seed", ["1", "2"])
def test_the_bytes_do_not_depend_on_the_hash_seed(seed: str, tmp_path: Path) -> None:
    specs = [EXAMPLES / name for name in ("mamba2.scan", "mlstm.scan", "delta_product.scan")]
    command = [sys.executable, "-m", "scandsl", "compile", *map(str, specs), "--out"]
    texts = []
    for number in ("0", seed):
        out = tmp_path / number
        environment = {"PYTHONHASHSEED": number, "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
        subprocess.run([*command, str(out)], check=True, env=environment, capture_output=True)
        texts.append([(out / f"{spec.stem}.py").read_bytes() for spec in specs])
    assert texts[0] == texts[1]


# ---------------------------------------------------------------- explain, test


def test_explain_in_words_and_as_data(good: Path) -> None:
    words = scandsl("explain", EXAMPLES / "mamba2.scan")
    assert words.exit_code == 0
    assert "form    chunk" in words.stdout
    found = json.loads(scandsl("explain", good, EXAMPLES / "mamba2.scan", "--json").stdout)
    assert [entry["scan"] for entry in found] == ["leaky", "mamba2"]
    assert found[1]["components"][0]["form"] == "chunk"


def test_explain_of_a_wrong_spec_fails(bad: Path) -> None:
    assert scandsl("explain", bad).exit_code == 1


def test_test_prints_a_table(good: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SCANDSL_CACHE_DIR", str(tmp_path / "cache"))
    result = scandsl("test", good, "--time", "20", "--dtype", "float32", "--backend", "torch")
    assert result.exit_code == 0, result.output
    assert "2 passed, 0 failed" in result.stdout
    assert scandsl("test", good, "--dtype", "float8").exit_code == 2


def test_test_fails_on_a_wrong_module(
    good: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SCANDSL_CACHE_DIR", str(tmp_path / "cache"))
    other = tmp_path / "other.scan"
    other.write_text(GOOD.replace("exp(g) * h", "exp(0.999 * g) * h"))
    from scandsl import loader

    wrong = loader.load(other)
    monkeypatch.setattr("scandsl.cli.load", lambda *_args, **_options: wrong)
    result = scandsl("test", good, "--time", "20", "--dtype", "float32")
    assert result.exit_code == 1
    assert "failed: leaky" in result.stdout


# ---------------------------------------------------------------- fmt, new


def test_fmt_rewrites_and_checks(good: Path) -> None:
    good.write_text(GOOD.replace("exp(g) * h", "exp( g )*h"))
    assert scandsl("fmt", "--check", good).exit_code == 1
    assert "exp( g )*h" in good.read_text()
    assert scandsl("fmt", good).exit_code == 0
    assert good.read_text() == GOOD
    assert scandsl("fmt", "--check", good).exit_code == 0


def test_fmt_reads_stdin() -> None:
    result = scandsl("fmt", "-", text=GOOD.replace(" + x", "+x"))
    assert result.exit_code == 0
    assert result.stdout == GOOD
    assert scandsl("fmt", "-", "--check", text=GOOD.replace(" + x", "+x")).exit_code == 1


def test_fmt_leaves_a_wrong_file_alone(good: Path) -> None:
    good.write_text("scan (:\n")
    assert scandsl("fmt", good).exit_code == 1
    assert good.read_text() == "scan (:\n"


def test_new_writes_a_spec_that_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert scandsl("new", "mine").exit_code == 0
    assert scandsl("check", "mine.scan").exit_code == 0
    assert scandsl("fmt", "--check", "mine.scan").exit_code == 0
    assert scandsl("new", "mine").exit_code == 2
    assert scandsl("new", "not-a-name").exit_code == 2


# ---------------------------------------------------------------- start-up, loading


@pytest.mark.parametrize("command", [["check"], ["fmt", "--check"], ["compile"], ["explain"]])
def test_commands_that_need_no_torch_do_not_import_it(command: list[str], good: Path) -> None:
    code = (
        "import sys; from scandsl.cli import main\n"
        f"main([*{command!r}, {str(good)!r}], standalone_mode=False)\n"
        "assert 'torch' not in sys.modules and 'rich' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_load_caches_by_content(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scandsl import load

    cache = good.parent / "cache"
    monkeypatch.setenv("SCANDSL_CACHE_DIR", str(cache))
    good.write_text(GOOD.replace("exp(g) * h", "exp(3 * g) * h"))
    first = load(good)
    assert callable(first.leaky)
    assert load(good) is first
    assert Path(first.__file__ or "").parent == cache
    good.write_text(GOOD.replace("exp(g) * h", "exp(2 * g) * h"))
    assert load(good) is not first
    assert len(list(cache.glob("leaky_*.py"))) == 2


def test_the_import_hook_finds_specs(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scandsl import hook

    monkeypatch.setenv("SCANDSL_CACHE_DIR", str(good.parent / "cache"))
    monkeypatch.syspath_prepend(str(good.parent))
    good.rename(good.parent / "hooked_leaky.scan")
    hook.install()
    try:
        import hooked_leaky  # type: ignore[import-not-found]

        assert callable(hooked_leaky.leaky)
    finally:
        hook.uninstall()
        sys.modules.pop("hooked_leaky", None)
