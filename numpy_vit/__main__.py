"""`python -m numpy_vit` is `numpy-vit`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
