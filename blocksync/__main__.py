"""``python -m blocksync`` is the command ``blocksync``."""

from __future__ import annotations

import sys

from blocksync.cli import main

if __name__ == "__main__":
    sys.exit(main())
