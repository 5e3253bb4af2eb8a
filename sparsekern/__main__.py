"""`python -m sparsekern` is the command `sparsekern`."""

from __future__ import annotations

import sys

from sparsekern.cli import main

if __name__ == "__main__":
    sys.exit(main())
