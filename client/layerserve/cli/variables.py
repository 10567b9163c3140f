"""Environment variables that the command line reads. A server, whose settings begin alike, knows them by this list."""

ADDRESS = "LAYERSERVE_ADDRESS"
TOKEN = "LAYERSERVE_TOKEN"
TLS = "LAYERSERVE_TLS"
CA = "LAYERSERVE_CA"

ALL = (ADDRESS, TOKEN, TLS, CA)
