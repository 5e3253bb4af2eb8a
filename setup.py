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

setup(
    ext_modules=[
        Pybind11Extension(
            "sparsekern._core",
            SOURCES,
            depends=HEADERS,
            include_dirs=["csrc"],
            cxx_std=17,
            extra_compile_args=["-O3", "-Wall", "-Wextra"],
        )
    ]
)
