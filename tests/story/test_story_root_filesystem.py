"""A real root filesystem: made by debootstrap, sent, changed by mounting it, sent again, verified, checked by fsck."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from story_processes import MIB, World, sha256

IMAGE_SIZE = 700 * MIB


def run(*words: str | Path) -> str:
    done = subprocess.run([str(word) for word in words], check=False, capture_output=True, text=True)
    assert done.returncode == 0, (words, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout


def mirror() -> str:
    """The one that this machine's packages come from."""
    lines = run("apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)").splitlines()
    sites = [uri for release, uri in (line.split() for line in lines) if release == "bookworm"]
    return sites[0] if sites else "http://deb.debian.org/debian"


@pytest.fixture(scope="module")
def root_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if os.geteuid() != 0:
        pytest.skip("debootstrap needs root")
    folder = tmp_path_factory.mktemp("root-filesystem")
    tree, image = folder / "tree", folder / "root.img"
    run("debootstrap", "--variant=minbase", "bookworm", tree, mirror())
    run("mkfs.ext4", "-q", "-d", tree, image, f"{IMAGE_SIZE // 1024}k")
    run("rm", "-rf", "--one-file-system", tree)
    return image


@pytest.fixture
def mounted(root_image: Path, tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "mounted"
    place.mkdir()
    run("mount", "-o", "loop", root_image, place)
    yield place
    subprocess.run(["umount", str(place)], check=False, capture_output=True)


def test_a_debian_root_filesystem_arrives_follows_and_is_sound(
    world: World, root_image: Path, mounted: Path
) -> None:
    run("umount", mounted)
    target = world.folder / "target.img"
    _, listening = world.recv(f"root={target}", more=("--create", str(IMAGE_SIZE)))
    to = f"127.0.0.1:{listening['control_port']}"
    first = world.send(root_image, to).result()
    assert sha256(target) == sha256(root_image)
    assert first["wire"] < first["changed"], "a root filesystem compresses"

    run("mount", "-o", "loop", root_image, mounted)
    note = "written between two passes\n" * 1000
    (mounted / "etc" / "motd").write_text(note)
    (mounted / "var" / "new").mkdir()
    for number in range(50):
        (mounted / "var" / "new" / str(number)).write_bytes(os.urandom(20_000))
    run("rm", "-r", mounted / "usr" / "share" / "doc")
    run("umount", mounted)

    second = world.send(root_image, to).result()
    assert second["kind"] == "incremental"
    assert 50 * 20_000 < second["wire"] < first["wire"] // 4
    assert world.send(root_image, to, command="verify").result()["identical"] is True
    assert sha256(target) == sha256(root_image)
    run("fsck.ext4", "-f", "-n", target)

    run("mount", "-o", "loop,ro", target, mounted)
    assert (mounted / "etc" / "motd").read_text() == note
    assert not (mounted / "usr" / "share" / "doc").exists()
