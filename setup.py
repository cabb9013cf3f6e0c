"""The optional native extension; everything else stands in pyproject.toml.

``BLOCKSYNC_BUILD_NATIVE`` chooses: ``auto`` (or unset) builds the extension where a Rust toolchain is at hand and
goes on without it, saying so, where there is none or the build fails; ``yes`` makes that an error; ``no`` does not
try. Without it the Python kernels are used: same results, slower.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig

from setuptools import setup
from setuptools.command.build_ext import get_abi3_suffix
from setuptools_rust import Binding, RustExtension, build_rust

VARIABLE = "BLOCKSYNC_BUILD_NATIVE"


def say(message: str) -> None:
    sys.stderr.write(f"blocksync: {message}\n")


def without(reason: str) -> str:
    return (
        f"{reason}; installing without the native kernels (the Python ones give the same results, slower). "
        f"To have them, install Rust from https://rustup.rs and a C linker, then install again with {VARIABLE}=yes"
    )


class BuildNative(build_rust):
    """Builds the extension; a failure ends the installation only where the extension was insisted on."""

    def get_dylib_ext_path(self, ext: RustExtension, target_fname: str) -> str:
        # An editable install has no wheel command to ask for the stable ABI, so the module would get a name that
        # one version of Python alone looks for.
        path: str = super().get_dylib_ext_path(ext, target_fname)
        own, stable = sysconfig.get_config_var("EXT_SUFFIX"), get_abi3_suffix()
        if path.endswith(own) and stable is not None and stable.startswith((".abi3.", ".abi3-")):
            return path[: -len(own)] + stable
        return path

    def run_for_extension(self, extension: RustExtension) -> None:
        try:
            super().run_for_extension(extension)
        except Exception as error:  # whatever went wrong in the toolchain, the package works without
            if not extension.optional:
                raise
            say(str(error))
            say(without("the native extension could not be built"))


def native_extensions() -> list[RustExtension]:
    mode = os.environ.get(VARIABLE) or "auto"
    if mode not in ("auto", "yes", "no"):
        raise SystemExit(f"blocksync: {VARIABLE} is {mode!r}; set it to auto, yes or no, or unset it")
    if mode == "no":
        return []
    if mode == "auto" and not (shutil.which(os.environ.get("CARGO", "cargo")) and shutil.which("rustc")):
        # Decided here and not by the failing build, so that the wheel is a pure one.
        say(without("there is no Rust toolchain (cargo, rustc) on PATH"))
        return []
    return [
        RustExtension(
            "blocksync._native",
            path="native/Cargo.toml",
            binding=Binding.PyO3,
            # An editable install would get a debug build otherwise, thirty times slower.
            debug=False,
            optional=mode == "auto",
            args=["--locked"],
        )
    ]


setup(rust_extensions=native_extensions(), cmdclass={"build_rust": BuildNative})
