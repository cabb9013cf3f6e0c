"""One surface under libFuzzer, in a process of its own: ``python -m fuzz.campaign SURFACE LIBFUZZER-ARGUMENTS``."""

from __future__ import annotations

import logging
import sys


def main() -> None:
    import atheris

    name = sys.argv[1]
    import fuzz.surfaces as surfaces

    logging.disable()
    # Twice: the first import tells which modules to instrument, and they must not be there yet when that is done.
    modules = _modules(name)
    with atheris.instrument_imports(include=list(modules)):
        surface = surfaces.load(name)

    def one(data: bytes) -> None:
        surfaces.meets(surface, data)

    atheris.Setup([sys.argv[0], *sys.argv[2:]], one)
    atheris.Fuzz()


def _modules(name: str) -> tuple[str, ...]:
    """What a surface wants instrumented, read in another process."""
    import subprocess

    code = f"import fuzz.surfaces as s; print(*s.load({name!r}).modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return tuple(done.stdout.split())


if __name__ == "__main__":
    main()
