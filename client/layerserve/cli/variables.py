"""Environment variables of the CLI. The server, whose settings have the same prefix, ignores them."""

ADDRESS = "LAYERSERVE_ADDRESS"
TOKEN = "LAYERSERVE_TOKEN"
TLS = "LAYERSERVE_TLS"
CA = "LAYERSERVE_CA"

ALL = (ADDRESS, TOKEN, TLS, CA)
