"""Artifacts: what is made of models once, kept in the state folder, and mapped or opened by every process.

A folder has the digest of all that it depends on as its name (`keys`). It is made under another name, found again, and
removed when it isn't used any more (`artifacts`).
"""
