"""What a stranger gets: the source archive and the wheel hold all that the docs name and the package reads."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What is at the top of a checkout, but for what people leave there.
PARTS = ("benchmarks", "blocksync", "docs", "examples", "fuzz", "native", "packaging", "scripts", "tests")
FILES = ("CHANGELOG.md", "LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.cfg", "setup.py")
HOOK = "import setuptools.build_meta as build; build.build_sdist('out'); build.build_wheel('out')"
LEFT_BEHIND = shutil.ignore_patterns("__pycache__", "*.so", "target", ".*_cache", ".hypothesis", "*.egg-info")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with both archives in ``out``."""
    tree = tmp_path_factory.mktemp("tree")
    for part in PARTS:
        shutil.copytree(ROOT / part, tree / part, ignore=LEFT_BEHIND, symlinks=True)
    for name in FILES:
        shutil.copy(ROOT / name, tree / name)
    shutil.copytree(ROOT / ".ci", tree / ".ci")
    before = files_of(tree)
    done = subprocess.run(
        [sys.executable, "-c", HOOK],
        cwd=tree,
        env={"PATH": "/usr/bin:/bin", "BLOCKSYNC_BUILD_NATIVE": "no"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (tree / "before").write_text("\n".join(sorted(before)))
    return tree


def files_of(tree: Path) -> set[str]:
    return {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()}


def test_the_source_archive_is_whole(tree: Path) -> None:
    (archive,) = (tree / "out").glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        held = {name.partition("/")[2] for name in opened.getnames()}
    assert set((tree / "before").read_text().split("\n")) - held == set()


def test_the_wheel_has_all_that_the_package_reads(tree: Path) -> None:
    (wheel,) = (tree / "out").glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        held = set(opened.namelist())
    wanted = {name for name in (tree / "before").read_text().split("\n") if name.startswith("blocksync/")}
    assert wanted - held == set()
    assert {name.split("/")[0] for name in held if ".dist-info/" not in name} == {"blocksync"}
