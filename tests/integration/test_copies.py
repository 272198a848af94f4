"""Copies of binaries to be run and not read: made once, verified, safe against two at once."""

import os
import shutil
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from supervisor.errors import ErrorCode, SupervisorError
from supervisor.runtimes.copies import codex_copy, init_copy


@pytest.fixture
def codex(tmp_path: Path) -> Path:
    """A folder as the wheel has it."""
    folder = tmp_path / "wheel"
    for name in ("bin/codex", "bin/codex-code-mode-host", "codex-path/rg", "codex-resources/bwrap"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"the binary {name}")
        path.chmod(0o755)
    (folder / "codex-package.json").write_text("{}")
    (folder / "codex-path" / "alias").symlink_to("rg")
    (folder / "__init__.py").write_text("")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "x.pyc").write_text("")
    return folder / "bin" / "codex"


def modes(folder: Path) -> dict[str, int]:
    found = [path for path in folder.rglob("*") if not path.is_symlink()]
    return {str(p.relative_to(folder)): stat.S_IMODE(p.stat().st_mode) for p in found}


def test_binaries_can_be_run_and_not_read(codex: Path, tmp_path: Path) -> None:
    copy = codex_copy(codex, tmp_path / "copies")
    assert modes(copy) == {
        "bin": 0o755,
        "bin/codex": 0o711,
        "bin/codex-code-mode-host": 0o711,
        "codex-package.json": 0o644,
        "codex-path": 0o755,
        "codex-path/rg": 0o711,
        "codex-resources": 0o755,
        "codex-resources/bwrap": 0o755,
    }
    assert (copy / "bin" / "codex").read_text() == "the binary bin/codex"
    assert (copy / "codex-path" / "alias").readlink() == Path("rg")
    assert {path.stat().st_uid for path in copy.rglob("*")} == {os.geteuid()}
    assert stat.S_IMODE((tmp_path / "copies").stat().st_mode) == 0o700


def test_a_copy_is_made_once_a_version(codex: Path, tmp_path: Path) -> None:
    first = codex_copy(codex, tmp_path / "copies")
    inode = (first / "bin" / "codex").stat().st_ino
    assert codex_copy(codex, tmp_path / "copies") == first
    assert (first / "bin" / "codex").stat().st_ino == inode
    codex.write_text("the next version")
    second = codex_copy(codex, tmp_path / "copies")
    assert second != first
    # Containers of the first still run from it.
    assert (first / "bin" / "codex").read_text() == "the binary bin/codex"


@pytest.mark.parametrize(
    "damage",
    [
        lambda copy: (copy / "bin" / "codex").write_text("forged"),
        lambda copy: (copy / "bin" / "codex").chmod(0o755),
        lambda copy: (copy / "codex-path" / "rg").unlink(),
        lambda copy: (copy / "bin" / "more").write_text("x"),
        lambda copy: shutil.rmtree(copy / "bin"),
    ],
    ids=["content", "mode", "missing", "more", "torn"],
)
def test_a_copy_that_is_not_what_it_was_is_made_again(
    codex: Path, tmp_path: Path, damage: object
) -> None:
    copy = codex_copy(codex, tmp_path / "copies")
    before = modes(copy)
    assert callable(damage)
    damage(copy)
    assert codex_copy(codex, tmp_path / "copies") == copy
    assert (copy / "bin" / "codex").read_text() == "the binary bin/codex"
    assert modes(copy) == before
    assert [path.name for path in (tmp_path / "copies").iterdir()] == [copy.name]


def test_what_one_who_was_killed_left_half_made_is_cleared(codex: Path, tmp_path: Path) -> None:
    half = tmp_path / "copies" / ".making-x" / "bin"
    half.mkdir(parents=True)
    copy = codex_copy(codex, tmp_path / "copies")
    assert [path.name for path in (tmp_path / "copies").iterdir()] == [copy.name]


def test_many_at_once_get_the_same_whole_copy(codex: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        made = set(threads.map(lambda _: codex_copy(codex, tmp_path / "copies"), range(16)))
    (copy,) = made
    assert (copy / "bin" / "codex").read_text() == "the binary bin/codex"
    assert [path.name for path in (tmp_path / "copies").iterdir()] == [copy.name]


def test_the_init_is_a_copy_too(tmp_path: Path) -> None:
    init = tmp_path / "catatonit"
    init.write_text("init")
    init.chmod(0o755)
    copy = init_copy(init, tmp_path / "copies")
    assert copy.read_text() == "init"
    assert stat.S_IMODE(copy.stat().st_mode) == 0o711
    assert init_copy(init, tmp_path / "copies") == copy


@pytest.mark.parametrize("name", ["codex", "wheel/bin/none"])
def test_a_codex_that_is_no_folder_is_missing(codex: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "codex").write_text("a lone binary")
    with pytest.raises(SupervisorError) as caught:
        codex_copy(tmp_path / name, tmp_path / "copies")
    assert caught.value.code is ErrorCode.CODEX_MISSING


def test_an_init_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SupervisorError, match="catatonit") as caught:
        init_copy(tmp_path / "catatonit", tmp_path / "copies")
    assert "Install catatonit" in caught.value.hint
