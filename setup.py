"""The native core. Where no compiler is found the package installs without it and runs in plain NumPy."""

import platform
import re
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CORE = Path("src/embedserve/embedding/backbones/native/core")


def own_flags(source: Path) -> list[str]:
    """What the first line of a kernels_*.cpp asks of the compiler, on its architecture."""
    asked = re.match(r"// build: (\S+) (.*)", source.read_text(encoding="utf-8"))
    machine = {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    if not asked or (sys.platform != "darwin" and asked[1] != machine):
        return []
    if sys.platform == "darwin":  # may compile for both architectures at once
        only = "-Xarch_" + asked[1].replace("aarch64", "arm64")
        return [part for flag in asked[2].split() for part in (only, flag)]
    return asked[2].split()


class BuildCore(build_ext):
    """Each file with the flags it names: only files of kernels use more than the plain instruction set."""

    def build_extension(self, ext: Extension) -> None:
        compile_one = self.compiler._compile

        def compile_with_own_flags(obj, src, extension, cc_args, extra_postargs, pp_opts):
            compile_one(obj, src, extension, cc_args, [*extra_postargs, *own_flags(Path(src))], pp_opts)

        self.compiler._compile = compile_with_own_flags
        super().build_extension(ext)


setup(
    cmdclass={"build_ext": BuildCore},
    ext_modules=[
        Extension(
            "embedserve.embedding.backbones.native._core",
            sources=sorted(str(path) for path in CORE.glob("*.cpp")),
            depends=sorted(str(path) for pattern in ("*.h", "*.inl") for path in CORE.glob(pattern)),
            # No -march: each kernels_*.cpp names its instruction set and dispatch.cpp picks one at run time.
            # No contraction: products and sums must round alike in every tile, whatever the batch.
            extra_compile_args=[
                "-std=c++17",
                "-O3",
                "-pthread",
                "-fvisibility=hidden",
                "-ffp-contract=off",
                "-fno-math-errno",
                "-Wno-uninitialized",  # GCC 12 on its own AVX-512 header
            ],
            extra_link_args=["-pthread"],
            optional=True,
        )
    ]
    if sys.platform != "win32"
    else [],
)
