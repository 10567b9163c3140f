"""Environment variables of the command line. A server, whose settings have the same prefix, accepts them too."""

ADDRESS = "LAYERSERVE_ADDRESS"
TOKEN = "LAYERSERVE_TOKEN"
TLS = "LAYERSERVE_TLS"
CA = "LAYERSERVE_CA"

ALL = (ADDRESS, TOKEN, TLS, CA)
