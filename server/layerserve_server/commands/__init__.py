"""The command `layerserve serve`, where the command line finds it."""

from layerserve_server.commands.serving import serve

__all__ = ["serve"]
