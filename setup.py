"""The native core. Where no compiler is found the package installs without it and runs in plain NumPy."""

import sys
from pathlib import Path

from setuptools import Extension, setup

CORE = Path("src/embedserve/embedding/backbones/native/core")

setup(
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
