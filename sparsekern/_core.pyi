"""The C++ half: csrc/binding.cpp."""

PANEL_COLUMNS: int

def use_thread_pool(parallel_for: int, get_num_threads: int) -> None: ...
def isa() -> str: ...
def use_isa(name: str) -> None: ...
def isas(supported_only: bool = ...) -> tuple[str, ...]: ...
def fma_peak_gflops(isa: str = ...) -> float: ...
def vector_linear(
    x: int,
    x_stride: int,
    values: int,
    crow: int,
    col: int,
    panels: int,
    bias: int,
    y: int,
    m: int,
    n: int,
    k: int,
    v: int,
) -> None: ...
def unstructured_linear(
    x: int,
    x_stride: int,
    values: int,
    crow: int,
    col: int,
    panels: int,
    bias: int,
    y: int,
    m: int,
    n: int,
    k: int,
    v: int,
) -> None: ...
