"""Block-sparse products on GPUs, in Triton: the only package that imports it, and only on first use.

``launch.py`` and ``cache.py`` decide how a kernel is launched and know no Triton; ``*_kernels.py`` are the
kernels, ``bsr_linear.py`` and ``bsr_conv2d.py`` the ops.
"""
