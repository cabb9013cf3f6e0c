r"""VSS as far as :class:`~blocksync.platforms.shadowtools.ShadowTools` shows it: copies of a machine's volumes.

It reads the scripts that are handed to it as the programs would, and complains of every line it does not know.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from windows_simulated import Machine

WRITERS = (
    "Writer name: 'SqlServerWriter'\r\n   State: [{}] Stable\r\nWriter name: 'NTDS'\r\n   State: [1] Stable\r\n"
)
DEVICE = "\\\\?\\GLOBALROOT\\Device\\HarddiskVolumeShadowCopy{}"


class Killed(BaseException):
    """The process died here: nothing is caught, nothing is undone."""


@dataclass
class Copy:
    number: str
    group: str
    volume: str
    device: str


@dataclass
class Tools:
    """Programs of a machine.

    ``snapped`` maps each volume to the device whose content a copy of it gets.
    """

    machine: Machine
    snapped: dict[str, str]
    server: bool = True
    copies: list[Copy] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    writers: int = 1
    alive: dict[int, int] = field(default_factory=dict)
    began: int = 77
    ran: list[str] = field(default_factory=list)
    after: Callable[[str], None] = lambda _what: None
    removals_fail: bool = False

    def installed(self, program: str, /) -> bool:
        return self.server or program != "diskshadow.exe"

    def process_began(self, pid: int, /) -> int:
        return self.alive.get(pid, self.began)

    def run(self, words: Sequence[str], log: Path, /) -> int:
        code, text, what = self._answer(list(words))
        self.ran.append(what)
        with log.open("ab") as file:
            file.write(text.encode())
        self.after(what)
        return code

    def _answer(self, words: list[str]) -> tuple[int, str, str]:
        if words[0] == "vssadmin.exe":
            assert words[1:] == ["list", "writers"]
            return 0, WRITERS.format(self.writers), "writers"
        if words[0] == "diskshadow.exe":
            assert words[1] == "/s"
            return self._diskshadow(Path(words[2]).read_bytes().decode())
        assert words[:4] == ["powershell.exe", "-NoProfile", "-NonInteractive", "-Command"]
        return self._powershell(words[4])

    def _diskshadow(self, script: str) -> tuple[int, str, str]:
        assert script.endswith("\r\n")
        lines = script.splitlines()
        assert lines[0] == "set context persistent"
        assert re.fullmatch(r'set metadata ".+\.cab"', lines[1])
        assert lines[2] == "set verbose on"
        assert lines[-2:] == ["create", "exit"]
        volumes = []
        for number, line in enumerate(lines[3:-2]):
            found = re.fullmatch(r"add volume (\\\\\?\\Volume\{.+\}\\) alias BLOCKSYNC_(\d+)", line)
            assert found
            assert int(found[2]) == number
            volumes.append(found[1])
        if self.troubles:
            return 1, f"The last operation failed: {self.troubles.pop(0)}\r\n", "diskshadow"
        made = self._copy(volumes)
        text = f"Alias VSS_SHADOW_SET for shadow set ID {made[0].group} set as environment variable.\r\n"
        for each in made:
            text += f"\t* Shadow copy ID = {each.number}\r\n\t\t- Original volume name: {each.volume}\r\n"
        return 0, text, "diskshadow"

    def _powershell(self, script: str) -> tuple[int, str, str]:
        assert script.startswith("$ErrorActionPreference='Stop'; ")
        if "MethodName Create" in script:
            found = re.search(r"Volume='([^']+)'; Context='ClientAccessible'", script)
            assert found
            if self.troubles:
                return 0, f"BLOCKSYNC-CREATED|{self.troubles.pop(0)}|\r\n", "create"
            (made,) = self._copy([found[1]])
            return 0, f"BLOCKSYNC-CREATED|0|{made.number}\r\n", "create"
        if "Remove-CimInstance" in script:
            found = re.search(r"ID='(\{[^}]+\})'", script)
            assert found
            if self.removals_fail:
                return 1, "Remove-CimInstance : Access denied (0x80070005)\r\n", "remove"
            (gone,) = [each for each in self.copies if each.number == found[1]]
            self.copies.remove(gone)
            self.machine.devices.pop(gone.device)
            return 0, "", "remove"
        assert "Get-CimInstance Win32_ShadowCopy |" in script
        lines = [f"BLOCKSYNC|{c.number}|{c.group}|{c.volume}|{c.device}\r\n" for c in self.copies]
        return 0, "".join(lines), "list"

    def _copy(self, volumes: list[str]) -> list[Copy]:
        group, made = f"{{{uuid.uuid4()}}}", []
        for volume in volumes:
            at = 12 + len(self.copies)
            origin = self.machine.devices[self.snapped[volume]]
            image = origin.image.with_name(f"copy-{at}")
            shutil.copyfile(origin.image, image)
            # The service writes numbers in capitals in some places and not in others.
            copy = Copy(f"{{{uuid.uuid4()}}}".upper(), group, volume, DEVICE.format(at))
            self.machine.devices[copy.device] = dataclasses.replace(origin, image=image)
            self.copies.append(copy)
            made.append(copy)
        return made
