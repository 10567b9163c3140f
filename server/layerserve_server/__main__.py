"""`python -m layerserve_server PATH`, equivalent to `layerserve serve PATH`."""

import sys

from layerserve_server.commands import serve

if __name__ == "__main__":
    sys.exit(serve(sys.argv[1:]))
