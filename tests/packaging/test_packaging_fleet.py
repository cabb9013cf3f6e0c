"""What runs a fleet: the Ansible roles and the Kubernetes jobs pass their linters, and the roles do what they say."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml

from blocksync.cli.receiving import recv
from blocksync.cli.sending import send

PACKAGING = Path(__file__).parents[2] / "packaging"
ROLES = PACKAGING / "ansible"
MANIFESTS = sorted((PACKAGING / "kubernetes").glob("*.yaml"))
LIMIT_SECONDS = 300
CODE = "SECRET-CODE-OF-THE-TEST"


def tool(name: str, *words: str, folder: Path = ROLES, **environment: str) -> str:
    program = Path(sys.executable).parent / name
    assert program.exists(), f"{name} is not there: pip install -e '.[packaging]'"
    done = subprocess.run(
        [str(program), *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_SECONDS,
        env={
            **os.environ,
            "PATH": f"{program.parent}:{os.environ['PATH']}",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_LOCALHOST_WARNING": "False",
            "LC_ALL": "C.UTF-8",
            **environment,
        },
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


def test_the_roles_pass_their_linter(tmp_path: Path) -> None:
    copied = shutil.copytree(PACKAGING, tmp_path / "packaging")
    tool("ansible-lint", "--offline", "--profile", "production", ".", folder=copied / "ansible")
    tool("ansible-playbook", "-i", "inventory.yml", "site.yml", "--syntax-check")


def test_the_roles_install_both_ends_and_no_log_shows_a_code(tmp_path: Path) -> None:
    root = tmp_path / "root"
    codes = root / "run/blocksync/codes"
    codes.mkdir(parents=True)
    (codes / "web-1").write_text(CODE + "\n")
    inventory = {
        "all": {"vars": {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}},
        "receivers": {
            "hosts": {
                "target": {
                    "blocksync_receiver_targets": [{"slot": "web-1", "path": "/dev/vdb"}],
                    "blocksync_receiver_root": str(root),
                    "blocksync_receiver_service": False,
                    "blocksync_receiver_package": "",
                }
            }
        },
        "senders": {
            "hosts": {
                "web": {
                    "blocksync_sender_receiver": "target",
                    "blocksync_sender_slot": "web-1",
                    "blocksync_sender_root": str(root),
                    "blocksync_sender_service": False,
                    "blocksync_sender_package": "",
                }
            }
        },
    }
    (tmp_path / "inventory.yml").write_text(yaml.safe_dump(inventory))
    run = ("-i", str(tmp_path / "inventory.yml"), "site.yml", "-e", "ansible_become=false", "-vvv", "--diff")
    home = str(tmp_path / "ansible")
    said = tool("ansible-playbook", *run, ANSIBLE_HOME=home, ANSIBLE_ROLES_PATH=str(ROLES / "roles"))
    assert CODE not in said
    assert "failed=0" in said
    code = root / "etc/blocksync/sda.code"
    assert code.read_text() == CODE + "\n"
    assert code.stat().st_mode & 0o777 == 0o600
    settings = dict(
        line.split("=", 1) for line in (root / "etc/blocksync/sda.conf").read_text().splitlines() if line[0] != "#"
    )
    assert settings["TO"] == "target"
    assert CODE not in settings["OPTIONS"]
    assert parsed(send, ["/dev/sda", "--to", settings["TO"], *settings["OPTIONS"].split()])
    unit = (root / "etc/systemd/system/blocksync-recv.service.d/targets.conf").read_text().splitlines()[-1]
    assert parsed(recv, unit.split(" recv ", 1)[1].split())
    for name in ("blocksync-recv.service", "blocksync-follow@.service"):
        assert (root / "etc/systemd/system" / name).read_bytes() == (PACKAGING / name).read_bytes()
    # Again: nothing is left to do.
    assert "changed=0" in tool("ansible-playbook", *run, ANSIBLE_HOME=home, ANSIBLE_ROLES_PATH=str(ROLES / "roles"))


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_the_jobs_fit_the_schema_and_say_what_the_command_understands(path: Path) -> None:
    tool("kubernetes-validate", "--strict", str(path))
    jobs = [each for each in yaml.safe_load_all(path.read_text()) if each["kind"] == "Job"]
    assert jobs
    for job in jobs:
        (container,) = job["spec"]["template"]["spec"]["containers"]
        program, name = container["command"]
        assert program == "blocksync"
        assert parsed({"recv": recv, "send": send}[name], container["args"])


def parsed(command: click.Command, words: list[str]) -> bool:
    """Whether a command line is one that the command understands."""
    command.make_context(command.name or "", list(words), resilient_parsing=False).close()
    return True
