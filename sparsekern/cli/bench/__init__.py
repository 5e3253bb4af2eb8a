"""`sparsekern bench`: each kernel against its rivals, on this machine.

RIVALS (rivals.py) and PRESETS (presets.py) are the tables; benchmarks/ reads the same ones.
"""
