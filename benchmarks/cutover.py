"""A migration from plan to cutover, as a new user would try it, with the predictions beside the truth.

    python -m benchmarks.cutover [--size 2G] [--rate 4M] [--follow 5s] [--until 3s] [--watch 20s] [--json]

An image is written to all the while, at random pages, until the final pass makes the source stand still. Real
processes on loopback: check, estimate, first pass, following by the clock until it is stopped, passes until they are
short, the final pass, verify. Ends with 0 only where the target is identical and every step did what it said.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blocksync.cli.forecasts import beside_the_truth
from blocksync.cli.quantities import parse_size, show_rate, show_seconds, show_size

PAGE_BYTES = 4096
LIMIT_SECONDS = 1800.0
FOLLOWED_PASSES = 3

Said = dict[str, Any]


class Writer:
    """Production: writes random pages at a rate until the file ``stop`` appears; then syncs and makes ``stopped``."""

    def __init__(self, image: Path, rate: int, folder: Path) -> None:
        self.stop, self.stopped = folder / "stop", folder / "stopped"
        self.written = 0
        self._image = image
        self._rate = rate
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        chance = random.Random(11)
        pages = self._image.stat().st_size // PAGE_BYTES
        began = time.monotonic()
        with open(self._image, "r+b", buffering=0) as file:
            while not self.stop.exists():
                while self.written < (time.monotonic() - began) * self._rate:
                    file.seek(chance.randrange(pages) * PAGE_BYTES)
                    self.written += file.write(chance.randbytes(PAGE_BYTES))
                time.sleep(0.01)
        self.stopped.touch()


def sample(path: Path, size: int) -> None:
    """A third zeros, a third text, a third random bytes, by MiB."""
    chance = random.Random(5)
    text = b" ".join(chance.choices([b"block", b"digest", b"manifest", b"pass", b"sector"], k=1 << 16))
    mebibyte = 1 << 20
    with open(path, "wb") as file:
        file.truncate(size)
        for offset in range(0, size, mebibyte):
            kind = chance.randrange(3)
            if kind:
                file.seek(offset)
                file.write(chance.randbytes(mebibyte) if kind == 1 else (text * 4)[: min(mebibyte, size - offset)])


def line(*words: object) -> list[str]:
    """A command line that says objects."""
    return [sys.executable, "-m", "blocksync", *map(str, words), "--json"]


def command(*words: object) -> list[Said]:
    """Run a command; the objects it said. Its own end, if it is no success, ends this program."""
    done = subprocess.run(line(*words), capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False)
    said = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode:
        raise SystemExit(f"blocksync {words[0]} ended with {done.returncode}: {said[-1:]} {done.stderr}")
    return said


class Story:
    """The steps, and what each of them predicted and found."""

    def __init__(self, folder: Path, size: int, rate: int, *, follow: str, until: str, watch: str) -> None:
        folder.chmod(0o700)
        self._follow = follow
        self._watch = watch
        self._folder = folder
        self._until = until
        self._image = folder / "source.img"
        self._target = folder / "target.img"
        sample(self._image, size)
        self._writer = Writer(self._image, rate, folder)
        self._code = folder / "code"
        self._receiver = subprocess.Popen(
            [sys.executable, "-m", "blocksync", "recv", "--json", "--listen", "127.0.0.1", "--control-port", "0",
             "--data-port", "0", "--state-dir", str(folder / "receiver"), "--target", f"disk={self._target}",
             "--create", str(size), "--code-file", str(self._code)],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._receiver.stdout is not None
        listening = json.loads(self._receiver.stdout.readline())
        self._drain = threading.Thread(target=self._receiver.stdout.read, daemon=True)
        self._drain.start()
        near = ["--to", listening["to"], "--state-dir", folder / "sender"]
        self._near = near

    def run(self) -> Said:
        """All steps; what they found."""
        self._writer.start()
        estimate = command("estimate", self._image, *self._near, "--code-file", self._code, "--watch", self._watch)[
            -1
        ]
        check = command("check", self._image, *self._near)[-1]
        first = command("send", self._image, *self._near)[-1]
        followed, lag = self._followed()
        following = command("send", self._image, *self._near, "--until-converged", self._until)
        stop, stopped = self._writer.stop, self._writer.stopped
        last = command(
            "send", self._image, *self._near, "--final", "--verify",
            "--pre-final", f"touch '{stop}'; while [ ! -e '{stopped}' ]; do sleep 0.02; done",
            "--receipt", self._folder / "receipt.json",
        )  # fmt: skip
        proof = command("receipt", "verify", self._folder / "receipt.json", "--state-dir", self._folder / "sender")[
            -1
        ]
        status = command("status", "--state-dir", self._folder / "sender")[-1]["transfers"][0]
        passes = [said for said in [*followed, *following, *last] if said["type"] == "pass"]
        return {
            "estimate": estimate,
            "findings": check.get("findings", []),
            "first": first,
            "followed": sum(said["type"] == "pass" for said in followed),
            "lag": lag,
            "passes": passes,
            "forecasts": last[-1]["forecasts"],
            "pause": last[-1]["pause"],
            "same_in_status": status["forecasts"] == last[-1]["forecasts"],
            "same_in_receipt": proof["sender"]["forecasts"] == last[-1]["forecasts"],
            "written": self._writer.written,
            "state": status["state"],
            "identical": last[-1]["verified"] == {"disk": True} and self._same(),
            "receipt": proof["receiver"]["slots"][0]["root"] == last[-1]["root"],
        }

    def _followed(self) -> tuple[list[Said], float]:
        """Passes by the clock until ``blocksync stop``; what was said, and the lag that ``status`` told between two."""
        with subprocess.Popen(
            line("send", self._image, *self._near, "--follow", self._follow), stdout=subprocess.PIPE, text=True
        ) as sender:
            assert sender.stdout is not None
            said: list[Said] = []
            lag = 0.0
            passes = 0
            for text in sender.stdout:
                said.append(json.loads(text))
                passes += said[-1]["type"] == "pass"
                if said[-1]["type"] == "pass" and passes == FOLLOWED_PASSES:
                    where = ["--state-dir", self._folder / "sender"]
                    lag = command("status", *where)[-1]["transfers"][0]["lag"]
                    command("stop", self._image, *where)
        if passes < FOLLOWED_PASSES:
            raise SystemExit(f"following ended with {sender.returncode} after {passes} passes: {said[-1:]}")
        return said, lag

    def _same(self) -> bool:
        with open(self._image, "rb") as ours, open(self._target, "rb") as theirs:
            while block := ours.read(1 << 20):
                if block != theirs.read(1 << 20):
                    return False
        return True

    def close(self) -> None:
        self._writer.stop.touch()
        self._receiver.terminate()
        self._receiver.wait()
        self._drain.join()
        assert self._receiver.stdout is not None
        self._receiver.stdout.close()


def lines(found: Said) -> list[str]:
    """What was predicted beside what was true."""
    forecasts = found["forecasts"]
    held = sum(each["low"] <= each["took"] <= each["high"] for each in forecasts)
    return [
        *(
            f"pass {each['number']}: {show_size(each['changed'])} changed in {show_seconds(each['seconds'])}"
            for each in found["passes"]
        ),
        f"followed for {found['followed']} passes, then stopped; the target was {show_seconds(found['lag'])} behind",
        *beside_the_truth(forecasts),
        f"{held} of {len(forecasts)} within their intervals",
        f"the source stood still for {show_seconds(found['pause'])}, verifying included",
        f"written by production meanwhile: {show_size(found['written'])}",
        (
            f"state {found['state']}, {'identical' if found['identical'] else 'DIFFERENT'}, "
            f"receipt {'holds' if found['receipt'] else 'DOES NOT HOLD'}"
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=parse_size, default=parse_size("2G"))
    parser.add_argument("--rate", type=parse_size, default=parse_size("4M"), help="bytes a second that are written")
    parser.add_argument("--follow", default="5s", help="from the beginning of a followed pass to that of the next")
    parser.add_argument("--until", default="3s")
    parser.add_argument("--watch", default="20s", help="how long the estimate watches the source change")
    parser.add_argument("--json", action="store_true")
    wanted = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="blocksync-cutover-") as place:
        story = Story(
            Path(place), wanted.size, wanted.rate, follow=wanted.follow, until=wanted.until, watch=wanted.watch
        )
        try:
            found = story.run()
        finally:
            story.close()
    if wanted.json:
        print(json.dumps(found))
    else:
        print(f"{show_size(wanted.size)}, {show_rate(wanted.rate)} written all the while", *lines(found), sep="\n")
    told = found["same_in_status"] and found["same_in_receipt"]
    return 0 if found["identical"] and found["receipt"] and told and found["state"] == "finished" else 1


if __name__ == "__main__":
    sys.exit(main())
