"""Another package's definitions of messages, in the same process as the server's."""

from __future__ import annotations

import json
import subprocess
import sys

#: Defines messages of other shapes under the same names, before and after the server's stubs are imported and used.
PROGRAM = """
import json, sys
from google.protobuf import descriptor_pb2, descriptor_pool

files, ours, *order = sys.argv[1:]
for step in order:
    if step == "ours":
        exec(ours, {})
        continue
    for path, package, name in json.loads(files):
        file = descriptor_pb2.FileDescriptorProto(name=path, package=package, syntax="proto3")
        file.message_type.add(name=name).field.add(name="alive", number=7, type=9, label=1)
        descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
"""


def assert_both_work(files: list[tuple[str, str, str]], ours: str) -> None:
    """`files` are (path, package, message) that another package defines; `ours` is Python that uses the server's."""
    for order in (["other", "ours"], ["ours", "other", "ours"]):
        command = [sys.executable, "-c", PROGRAM, json.dumps(files), ours, *order]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
