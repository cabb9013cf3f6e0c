"""``python -m blocksync`` is the command ``blocksync``."""

from __future__ import annotations

from blocksync.cli import command

if __name__ == "__main__":
    command()
