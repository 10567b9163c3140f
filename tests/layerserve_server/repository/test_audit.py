"""The audit log: a line for each change, on disk, in order, also of several processes; files of bounded size."""

import json
import os

import pytest
from layerserve_server.repository import audit
from layerserve_server.repository.audit import FILE, KEPT, AuditLog


def lines(folder, name=FILE):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_a_record_is_a_line_with_its_time(tmp_path):
    log = AuditLog(tmp_path / "state")
    log.write(who="ann", action="pin", model="m", to=3, outcome="done")
    log.write(who='"\n\u2028', outcome="\ud800")
    first, second = lines(tmp_path / "state")
    assert first.pop("time").endswith("Z")
    assert first == {"who": "ann", "action": "pin", "model": "m", "to": 3, "outcome": "done"}
    assert second["who"] == '"\n\u2028'
    assert (tmp_path / "state" / FILE).stat().st_mode & 0o777 == 0o600


def test_a_record_is_flushed_before_the_change_is_answered(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(audit.os, "fsync", lambda handle: flushed.append(os.fstat(handle).st_size))
    AuditLog(tmp_path).write(who="ann")
    assert flushed == [(tmp_path / FILE).stat().st_size]


def test_a_line_that_a_crash_cut_off_spoils_no_other(tmp_path):
    log = AuditLog(tmp_path)
    log.write(who="a")
    with (tmp_path / FILE).open("a") as file:
        file.write('{"who": "cut')
    log.write(who="b")
    whole = [line for line in (tmp_path / FILE).read_text().splitlines() if line.endswith("}")]
    assert [json.loads(line)["who"] for line in whole] == ["a", "b"]


def test_files_are_rotated_by_size_and_only_so_many_are_kept(tmp_path):
    log = AuditLog(tmp_path, max_bytes=200)
    for number in range(100):
        log.write(number=number, text="x" * 50)
    names = {FILE, *(f"{FILE}.{number}" for number in range(1, KEPT + 1))}
    assert set(os.listdir(tmp_path)) == names
    assert all((tmp_path / name).stat().st_size <= 200 for name in names)
    ordered = [FILE, *(f"{FILE}.{number}" for number in range(1, KEPT + 1))]
    numbers = [record["number"] for name in reversed(ordered) for record in lines(tmp_path, name)]
    assert numbers == list(range(100 - len(numbers), 100))
    # A record that is larger than a file is written all the same.
    log.write(text="y" * 500)
    assert lines(tmp_path)[-1]["text"] == "y" * 500


def test_what_can_not_be_written_is_told_before_a_change(tmp_path):
    (tmp_path / "state").write_text("a file")
    with pytest.raises(OSError, match=r"File exists|Not a directory"):
        AuditLog(tmp_path / "state").check_writable()
    (tmp_path / FILE).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic link"):
        AuditLog(tmp_path).check_writable()
    assert not (tmp_path / "elsewhere").exists()
