"""``python -m spectralmc``."""

import sys

from spectralmc.cli import main

if __name__ == "__main__":  # worker processes import this module too
    sys.exit(main())
