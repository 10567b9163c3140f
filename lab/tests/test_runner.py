"""Command line of the fuzzers: which seeds run, what is printed of each, and the exit status."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz import runner
from fuzz.runner import Fuzzer, Skipped, run

CHECKED: list[int] = []


@pytest.fixture(autouse=True)
def no_seeds_checked() -> None:
    CHECKED.clear()


def check(seed: int, folder: Path) -> str:
    """Seeds that end in 3 differ, those that end in 5 are skipped."""
    CHECKED.append(seed)
    assert folder.is_dir()
    assert not list(folder.iterdir()), "a folder of its own"
    (folder / "file").touch()
    assert seed % 10 != 3, f"case {seed} differs {'by much ' * 500}"
    if seed % 10 == 5:
        raise Skipped("Keras refuses")
    return "rounding" if seed % 2 else "same"


GRAPHS = Fuzzer("graphs", "graphs", check, count=3)


@pytest.mark.parametrize(
    ("arguments", "seeds"),
    [
        ([], [0, 1, 2]),
        (["2"], [0, 1]),
        (["2", "--seed", "7"], [7, 8]),
        (["--seed", "7"], [7, 8, 9]),
        (["--case", "17"], [17]),
        (["9", "--seed", "4", "--case", "2"], [2]),
    ],
)
def test_seeds_are_those_of_the_command_line(arguments: list[str], seeds: list[int]) -> None:
    run(GRAPHS, arguments)
    assert seeds == CHECKED


def test_a_run_without_mismatches_ends_with_status_0_and_its_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(GRAPHS, []) == 0
    assert capsys.readouterr().out == "3 graphs, 0 mismatches\n  2 same\n  1 rounding\n"


def test_a_mismatch_gives_status_1_and_the_command_that_replays_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(GRAPHS, ["9"]) == 1
    printed = capsys.readouterr().out
    assert "seed 3: Traceback" in printed
    assert "AssertionError: case 3 differs" in printed
    assert "\nreplay with: make -C lab fuzz FUZZ=graphs CASE=3\n" in printed
    assert "8 graphs, 1 mismatches: seeds [3]; 1 skipped" in printed
    assert len(printed) < 2 * runner.TEXT_LENGTH
    assert list(range(9)) == CHECKED, "the others run after a mismatch"


def test_a_replay_prints_all_about_its_case(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(GRAPHS, ["--case", "3"]) == 1
    assert "by much " * 500 in capsys.readouterr().out
    assert run(GRAPHS, ["--case", "5"]) == 0
    assert "seed 5: skipped: Keras refuses" in capsys.readouterr().out
    assert run(GRAPHS, ["--case", "7"]) == 0
    assert "seed 7: rounding" in capsys.readouterr().out


def test_progress_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(runner, "PROGRESS_SECONDS", 0.0)
    run(GRAPHS, ["5"])
    assert "4 of 5 graphs, 1 mismatches\n" in capsys.readouterr().out


def check_made(seed: int, folder: Path) -> None:
    CHECKED.append(seed)
    assert (folder / "case").read_text() == str(seed)


def make(seed: int, folder: Path) -> str:
    (folder / "case").write_text("wrong" if seed == 4 else str(seed))
    if seed == 3:
        raise Skipped("Keras refuses")
    if seed == 6:
        raise ValueError("broken")
    return "made by Keras 3.8.0"


TWO_STEPS = Fuzzer("keras3", "graphs", check_made, make, peer="KERAS")


def test_two_steps_make_cases_in_a_folder_and_check_all_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS", "/tmp/keras 3.8")
    assert run(TWO_STEPS, ["make", str(tmp_path), "9", "--seed", "2"]) == 1
    printed = capsys.readouterr().out
    assert "ValueError: broken" in printed
    assert "8 graphs, 1 errors in making them: seeds [6]; 1 skipped" in printed
    assert "  7 made by Keras 3.8.0\n" in printed
    assert run(TWO_STEPS, ["check", str(tmp_path)]) == 1
    assert CHECKED == [2, 4, 5, 7, 8, 9, 10], "what was made, in the order of numbers"
    printed = capsys.readouterr().out
    assert "replay with: make -C lab fuzz FUZZ=keras3 KERAS='/tmp/keras 3.8' CASE=4\n" in printed
    assert "7 graphs, 1 mismatches: seeds [4]\n" in printed
    assert run(TWO_STEPS, ["check", str(tmp_path), "--case", "5"]) == 0
    assert run(TWO_STEPS, ["check", str(tmp_path), "--case", "3"]) == 0, "not made: no mismatch"


def test_of_several_processes_the_first_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert run(GRAPHS, ["4"]) == 1
    assert capsys.readouterr().out == ""


def test_an_error_ends_the_process_that_others_wait_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(seed: int, folder: Path) -> None:
        raise ValueError("no such loss")

    monkeypatch.setenv("RANK", "1")
    with pytest.raises(ValueError, match="no such loss"):
        run(Fuzzer("workers", "models", broken, end_on_error=True), ["4"])
    assert "replay with: make -C lab fuzz FUZZ=workers CASE=0\n" in capsys.readouterr().out
