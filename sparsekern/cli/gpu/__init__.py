"""`sparsekern gpu`: checks, tunes and times the kernels on the GPU of this machine, in parts.

PARTS (command.py) is the table. Each part runs in a process of its own and for a bounded time; what it found
goes into one JSON file for the device.
"""
