"""Builds ``sparsekern._core``. Metadata is in pyproject.toml.

No torch is needed to build: the extension sees raw pointers and sizes only. No ISA flag is passed to the
compiler either: each ``csrc/cpu/isa_*.cpp`` opens its own target region (docs/decisions/0002).
"""

from __future__ import annotations

from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension
from setuptools import setup

HERE = Path(__file__).parent
SOURCES = sorted(str(path.relative_to(HERE)) for path in (HERE / "csrc").rglob("*.cpp"))
HEADERS = sorted(str(path.relative_to(HERE)) for path in (HERE / "csrc").rglob("*.h"))

ParallelCompile(default=0).install()  # one job per core

# -fno-wrapv: Python adds -fwrapv for its own sake; with it GCC 12.2 at -O3 (pass ivopts) drops the stores of
# input_run<_, 1, R> in csrc/cpu/grad_panels.inc.h when R vectors have 32 lanes.

setup(
    ext_modules=[
        Pybind11Extension(
            "sparsekern._core",
            SOURCES,
            depends=HEADERS,
            include_dirs=["csrc"],
            cxx_std=17,
            extra_compile_args=["-O3", "-fno-wrapv", "-Wall", "-Wextra"],
        )
    ]
)
