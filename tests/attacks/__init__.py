"""Hostile callers against a real server, with an honest caller beside them: `make -C lab attack`."""
