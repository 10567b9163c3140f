"""`python -m layerserve`: the command line, where its command isn't on the path."""

import sys

from layerserve.cli import main

if __name__ == "__main__":
    sys.exit(main())
