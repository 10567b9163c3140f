"""Engines: alternatives to eager torch for executing a plan."""
