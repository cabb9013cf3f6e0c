"""Benchmarks for people: ``python -m benchmarks.compare``. See benchmarks/README.md."""

import compileall
from pathlib import Path

import blocksync

# An installation from a wheel has its bytecode. One that is edited in place writes it at first use, and never where
# PYTHONDONTWRITEBYTECODE is set: every command that is measured then compiles 250 modules, 0.2 s of each start.
compileall.compile_dir(Path(blocksync.__file__).parent, quiet=2)
