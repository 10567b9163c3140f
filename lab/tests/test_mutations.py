"""The tool itself: which bugs it makes of a line, what it leaves alone, and that a sample stays the same."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import coverage
import measuring
import pytest
import reach
from mutations import compiles, mutations
from reach import said, scopes, used_at
from report import Equivalents, Result, Results
from sampling import SOURCES, room_of, sample, sources
from trial import Trial

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]

LINES = [
    ("if a < b: pass", {"if a <= b: pass", "if not (a < b): pass"}),
    ("if a is None: pass", {"if a is not None: pass"}),
    ("y = a not in b", {"y = a in b"}),
    ("y = not a", {"y = a"}),
    ("y = a and b", {"y = a or b", "y = a"}),
    ("y = a + b", {"y = a - b"}),
    ("y = 'a' + b", set()),
    ("y += n", {"pass", "y -= n"}),
    ("y = 3", {"y = 4", "y = 2"}),
    ("y = 4096", {"y = 40960"}),
    ("y = 1e-5", {"y = 0.01"}),
    ("y = True", {"y = False"}),
    ("y = -n", {"y = n"}),
    ("y = a[n:]", {"y = a[:]"}),
    ("y = f(a, b)", {"y = f(b, a)"}),
    ("y = f(a, k=b)", {"y = f(a)"}),
    ("y = min(a)", {"y = max(a)"}),
    ("f(a)", {"pass"}),
    ("del a", {"pass"}),
    ("raise ValueError(f'{a + 1}')", {"pass"}),
    ("raise AssertionError", set()),
    ("with lock: pass", {"if True: pass"}),
    ("with open(a) as b: pass", set()),
    ("y = [a for a in b if a]", {"y = [a for a in b if not (a)]"}),
    ("logger.info('a', b)", set()),
    ("assert a < b", set()),
    ("y: Literal[3] = a", set()),
    ("y = cast('int', a)", set()),
    ("f'{a + 1}'", set()),
]


@pytest.mark.parametrize(("line", "changed"), LINES)
def test_a_line_has_the_bugs_of_one_slip(line: str, changed: set[str]) -> None:
    source = f"{line}\n".encode()
    found = [each for each in mutations("a.py", source) if compiles(each, source)]
    assert {each.apply(source).decode().rstrip("\n").replace(" \n", "\n") for each in found} == changed


def test_an_early_return_an_except_and_a_finally_are_dropped() -> None:
    source = (
        b"def f(a, k=1) -> int:\n    'Text.'\n    if a:\n        return 2\n    try:\n        g()\n"
        b"    except OSError:\n        return k\n    if k:\n        return False\n    return a\n"
    )
    found = {(each.operator, each.line) for each in mutations("a.py", source)}
    assert {("return-none", 4), ("drop-except", 7), ("return-none", 8), ("drop-call", 6)} <= found
    # `False` becomes `True` instead.
    assert ("constant", 10) in found
    assert {("return-none", 10), ("return-none", 11)}.isdisjoint(found)
    # A default is made where the function is.
    assert [each.scope for each in mutations("a.py", source) if each.line == 1] == ["", ""]


def test_a_mutation_knows_the_lines_that_run_it() -> None:
    source = b"class A:\n    def f(self):\n        return g(\n            1,\n            h(a, b),\n        )\n"
    (swap,) = [each for each in mutations("a.py", source) if each.operator == "swap-arguments"]
    assert (swap.scope, swap.scope_line, swap.lines) == ("A.f", 2, (3, 5))
    assert scopes(source) == {"A": (1, 6), "A.f": (2, 6)}


def test_a_constant_and_an_option_are_used_where_they_are_named() -> None:
    source = (
        b"MOST = 3\nclass A:\n    size: int = 2\n\n    def f(self):\n        return self.size\n\n"
        b"def g():\n    return MOST\n"
    )
    lines = {each.line: used_at(each, source) for each in mutations("a.py", source) if each.operator == "constant"}
    assert lines[1] >= {9}
    assert lines[3] >= {6}
    assert 9 not in lines[3]


def test_a_default_is_used_where_its_argument_is_named() -> None:
    source = b"def f(a=1, *, b=2):\n    y = 3\n    return (\n        a +\n        b\n    )\n"
    lines = {each.text: used_at(each, source) for each in mutations("a.py", source) if each.line == 1}
    assert lines == {"2": {4}, "0": {4}, "3": {5}, "1": {5}}


def test_the_words_of_a_line_are_those_of_names_without_endings() -> None:
    source = b"class Loop:\n    def reset(self):\n        self.statefulLayers = f(a, b)\n"
    (swap,) = [each for each in mutations("training/loop.py", source) if each.operator == "swap-arguments"]
    assert said(swap, source) == {"train", "loop", "reset", "self", "stateful", "layer"}


def test_lines_of_sources_are_measured_and_no_others() -> None:
    data = coverage.CoverageData(no_disk=True)
    here = Path.cwd()
    data.add_lines({str(here / "server/a.py"): [1, 2]})
    for test in ("0", "1"):
        data.set_context(test)
        data.add_lines({str(here / "server/a.py"): [5], str(here / "server/page.html"): [1]})
    assert measuring._reached(data, ["f", "g"]) == {"server/a.py": {"imported": [1, 2], "lines": [("3", [5])]}}


@pytest.mark.parametrize(
    ("file", "tried"),
    [("tests/a/test_online.py", True), ("tests/online/test_door.py", True), ("tests/test_b.py", False)],
)
def test_what_no_test_is_known_to_run_is_tried_with_tests_of_its_name(file: str, tried: bool) -> None:
    passed, failed = ({"name": name, "clock": 1.0, "work": 1.0, "passed": name == "f"} for name in "fg")
    (drop,) = mutations("a/online/program.py", b"def f():\n    g()\n")
    found = reach._File(file, {"tests": [passed, failed], "reached": {}}).namesakes(drop)
    assert [test.name for test in found] == ["f"] * tried


@pytest.mark.parametrize(
    ("file", "path", "tried"),
    [
        ("tests/layerserve_server/commands/test_settings_reader.py", "server/layerserve_server/access/quota.py", True),
        ("tests/layerserve_server/commands/test_settings_reader.py", "server/layergraph/golden.py", False),
        ("tests/a/test_run_list.py", "client/layerserve/run_list.py", True),
        ("tests/a/test_run.py", "client/layerserve/run_list.py", False),
    ],
)
def test_what_an_import_makes_is_read_by_tests_that_run_no_line(file: str, path: str, tried: bool) -> None:
    test = {"name": "f", "clock": 1.0, "work": 1.0, "passed": True}
    reached = {path: {"imported": [1], "lines": [], "scopes": {}}}
    more = mutations(path, b"MOST = 3\n")[0]
    found = [each.tier for each in reach._File(file, {"tests": [test], "reached": reached}).tests(more, {1}, set())]
    assert found == [0] * tried


def test_a_case_of_a_module_is_tried_first() -> None:
    tests = [{"name": f"f[{case}]", "clock": 1.0, "work": 1.0, "passed": True} for case in ("async_flow", "b")]
    (drop,) = mutations("client/layerserve/flow.py", b"def f():\n    g()\n")
    found = reach._File("tests/layerserve/test_public_api.py", {"tests": tests, "reached": {}}).namesakes(drop)
    assert {test.name: test.tier for test in found} == {"f[async_flow]": 0, "f[b]": 4}


def test_of_many_cases_of_one_test_two_or_the_quick_ones_come_before_other_tests() -> None:
    names = ["a::f[1]", "a::f[2]", "a::f[3]", "a::g", "b::h"]
    tiers = [0, 0, 0, 0, 1]
    for work, found in ((1.0, ["a::f[1]", "a::f[2]", "a::g", "a::f[3]", "b::h"]), (0.05, names)):
        tests = [reach.Test(name, 1.0, work, (tier,)) for name, tier in zip(names, tiers, strict=True)]
        assert [test.name for test in reach._cases_apart(tests)] == found


def test_a_survivor_is_tried_again_with_the_tests_that_no_time_was_left_for(tmp_path: Path) -> None:
    source = b"def f():\n    g()\n"
    (tmp_path / "a.py").write_bytes(source)
    (drop,) = mutations("a.py", source)
    tests = [reach.Test(name, 1.0, 4.0, (0,)) for name in "abcde"]
    placed, ran = [], []

    def run(part):
        names = [test.name for test in part]
        ran.extend(names * len(placed))
        return {"reply": {"failed": "d" * len(placed and {"d"} & {*names})}, **ended}

    ended = {"timeout": False, "last": "", "output": "", "took": 1.0}
    warm = SimpleNamespace(run=run, mirror=SimpleNamespace(put=placed.append, restore=placed.remove))
    reached, killers = SimpleNamespace(tests=lambda mutation: list(tests)), reach.Killers(tmp_path / "killers.json")
    results, result = Results(tmp_path / "results.json", tmp_path), Result(drop)
    Trial(warm, reached, killers, 8.0).run(result)
    results.add(result)
    assert (ran, results.survivors()) == (["a", "b"], [result])
    Trial(warm, reached, killers, 8.0).run(result)
    assert (ran, result.killed_by, result.tests_run) == (["a", "b", "c", "d"], "d", {*"abcd"})
    assert results.survivors() == []


@pytest.mark.parametrize(
    ("folder", "room"),
    [
        ("client/layerserve", "client/layerserve"),
        ("client/layerserve/new", "client/layerserve/new"),
        ("server/layergraph/layers/hub", "server/layergraph/layers"),
        ("server/layerserve_server/training", "server/layerserve_server/training"),
        ("server/layerserve_server/extensions/online", "server/layerserve_server/extensions/online"),
        ("server/layerserve_server/training/runs", "server/layerserve_server/training/runs"),
        ("server/layerserve_server/services/new", "server/layerserve_server/services/new"),
        ("deploy/monitoring", "deploy"),
    ],
)
def test_a_new_folder_is_a_room_or_in_one(folder: str, room: str) -> None:
    assert room_of(f"{folder}/file.py") == room


def test_all_packages_have_rooms() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(SOURCES) >= set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    assert all((ROOT / folder).is_dir() for folder in SOURCES)


def test_a_sample_is_spread_and_a_smaller_one_is_part_of_it() -> None:
    chosen = sample(ROOT, 300, seed=3)
    assert len({each.name for each in chosen}) == 300
    counts = Counter(room_of(each.path) for each in chosen)
    # A folder of names alone has no mutants.
    assert {room_of(path) for path in sources(ROOT) if mutations(path, (ROOT / path).read_bytes())} == counts.keys()
    assert max(counts, key=lambda room: counts[room]) == "server/layergraph/layers"
    room = "server/layergraph/saving"
    few, more = (sample(ROOT, count, seed=3, within=room) for count in (5, 10))
    assert few == more[:5]
    assert more == sample(ROOT, 10, seed=3, within=room) != sample(ROOT, 10, seed=4, within=room)
    assert all(each.path.startswith(room + "/") for each in more)
    assert not any("_pb2" in path for path in sources(ROOT))


def test_every_equivalent_mutant_still_is_one_of_the_code() -> None:
    """One whose line has changed since is to be looked at again."""
    equivalents = Equivalents(ROOT / "tests" / "mutants" / "equivalent.toml", ROOT)
    for path in {listed["file"] for listed in equivalents.listed}:
        source = (ROOT / path).read_bytes()
        reasons = {equivalents.reason(each) for each in mutations(path, source)}
        assert reasons >= {listed["reason"] for listed in equivalents.listed if listed["file"] == path}
