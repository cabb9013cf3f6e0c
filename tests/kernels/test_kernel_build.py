"""The build modes, through the hook that pip calls: what is built, what is said, what is fatal.

Where Rust is missing or broken is played with PATH; a build that succeeds is CI's first step, not repeated here.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PARTS = ("blocksync", "native/Cargo.toml", "LICENSE", "README.md", "pyproject.toml", "setup.cfg", "setup.py")
HOOK = "import setuptools.build_meta as build; print(build.build_wheel('out'))"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """What a build reads, but for a crate that can be built."""
    tree = tmp_path_factory.mktemp("tree")
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__", "*.so", "*.pyd"))
        elif (ROOT / part).exists():
            (tree / part).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / part, tree / part)
    (tree / "README.md").touch()
    return tree


def build(tree: pathlib.Path, mode: str | None, programs: pathlib.Path) -> subprocess.CompletedProcess[str]:
    """Build a wheel with nothing but ``programs`` on PATH; the wheel's name is the last line printed."""
    pytest.importorskip("setuptools_rust", reason="the build requirements are not installed")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CARGO", "BLOCKSYNC"))}
    environment["PATH"] = str(programs)
    if mode is not None:
        environment["BLOCKSYNC_BUILD_NATIVE"] = mode
    shutil.rmtree(tree / "build", ignore_errors=True)
    return subprocess.run(
        [sys.executable, "-c", HOOK], cwd=tree, env=environment, capture_output=True, text=True, check=False
    )


def broken_toolchain(folder: pathlib.Path) -> pathlib.Path:
    """A compiler that tells its version, and a cargo that fails."""
    for name, line in (("rustc", "echo rustc 1.95.0"), ("cargo", "echo no linker here >&2; exit 101")):
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)
    return folder


@pytest.mark.parametrize("mode", [None, "auto"])
def test_without_rust_the_wheel_is_pure_and_the_reason_said(
    tree: pathlib.Path, tmp_path: pathlib.Path, mode: str | None
) -> None:
    built = build(tree, mode, tmp_path)
    assert built.returncode == 0, built.stderr
    assert built.stdout.splitlines()[-1].endswith("-py3-none-any.whl")
    assert "blocksync: there is no Rust toolchain (cargo, rustc) on PATH; installing without" in built.stderr
    assert "BLOCKSYNC_BUILD_NATIVE=yes" in built.stderr


@pytest.mark.skipif(os.name == "nt", reason="the broken toolchain is a shell script")
def test_a_failing_build_is_said_and_forgiven(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    built = build(tree, "auto", broken_toolchain(tmp_path))
    assert built.returncode == 0, built.stderr
    assert built.stdout.splitlines()[-1].endswith(".whl")
    assert "blocksync: the native extension could not be built; installing without" in built.stderr


@pytest.mark.skipif(os.name == "nt", reason="the broken toolchain is a shell script")
def test_a_failing_build_is_fatal_where_it_was_insisted_on(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    built = build(tree, "yes", broken_toolchain(tmp_path))
    assert built.returncode != 0
    assert "no linker here" in built.stderr


def test_missing_rust_is_fatal_where_it_was_insisted_on(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    built = build(tree, "yes", tmp_path)
    assert built.returncode != 0
    assert "can't find Rust compiler" in built.stderr


def test_no_does_not_even_look(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    built = build(tree, "no", tmp_path)
    assert built.returncode == 0, built.stderr
    assert built.stdout.splitlines()[-1].endswith("-py3-none-any.whl")
    assert "blocksync:" not in built.stderr


def test_any_other_mode_is_refused(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    built = build(tree, "maybe", tmp_path)
    assert built.returncode != 0
    assert "BLOCKSYNC_BUILD_NATIVE is 'maybe'; set it to auto, yes or no" in built.stderr
