"""The layerserve server."""

import os

# torch's threads wait busily for 4 ms after an operation, where a request's thread may want their core: a call of a
# small model that comes 20 ms after the last takes 12 ms so. With this many turns (a quarter of a millisecond) it takes
# 1.4 ms, and a call that follows at once finds them awake all the same. It is read when torch is imported, which the
# modules of this package do.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
