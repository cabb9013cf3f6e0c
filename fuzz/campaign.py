"""One surface under libFuzzer, in a process of its own: ``python -m fuzz.campaign SURFACE LIBFUZZER-ARGUMENTS``."""

from __future__ import annotations

import gc
import json
import logging
import subprocess
import sys


def main() -> None:
    import atheris

    name = sys.argv[1]
    import fuzz.surfaces as surfaces

    logging.disable()
    # Twice: the first import tells which modules to instrument, and they must not be there yet when that is done.
    wanted, beside = _modules(name)
    # Of what is included it looks at the first word alone, so that the rest of the package has to be excluded.
    with atheris.instrument_imports(include=wanted, exclude=beside):
        surface = surfaces.load(name)
    # What is there by now stays: no collection of garbage has to walk over it.
    gc.collect()
    gc.freeze()

    def one(data: bytes) -> None:
        surfaces.meets(surface, data)

    atheris.Setup([sys.argv[0], *sys.argv[2:]], one)
    atheris.Fuzz()


def _modules(name: str) -> tuple[list[str], list[str]]:
    """The modules that a surface wants instrumented, and those of ours that it only uses; read in another process."""
    code = (
        f"import json, sys, fuzz.surfaces as s; m = s.load({name!r}).modules; "
        "print(json.dumps([m, [n for n in sys.modules if n.partition('.')[0] == 'blocksync']]))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    wanted, loaded = json.loads(done.stdout)
    return wanted, [each for each in loaded if not any(f"{each}.".startswith(f"{one}.") for one in wanted)]


if __name__ == "__main__":
    main()
