"""Puts plausible bugs into the code, one at a time, and counts which of them the tests notice.

`make -C lab mutants` runs a sample over all rooms; ROOM=server/layergraph/archive only those of a room or file,
MUTANT=NAME shows one and runs it again. A test that fails notices a mutant, and so does one that hangs. Survivors that
nothing could notice are in `equivalent.toml` with the reason.
"""

from __future__ import annotations

import argparse
import queue
import sys
import threading
from pathlib import Path

from mirror import Mirror
from mutations import Mutation, mutations
from reach import Killers, Reach
from report import Equivalents, Result, Results, difference
from sampling import sample
from trial import Trial, Warm

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "mutants"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300, help="mutants of the sample")
    parser.add_argument("--seed", type=int, default=1, help="which sample")
    parser.add_argument("--room", default="", help="only this folder or file")
    parser.add_argument("--mutant", help="only these, as survivors are named")
    parser.add_argument("--jobs", type=int, default=2, help="mutants tried at once")
    parser.add_argument("--budget", type=float, default=24.0, help="seconds of the processor's time per mutant")
    parser.add_argument("--more", type=float, default=60.0, help="seconds more for each survivor, after all others")
    parser.add_argument("--no-measure", action="store_true", help="don't measure files of tests that changed")
    parser.add_argument("--measure", metavar="TESTS", help="only measure which lines tests run, whose path begins so")
    parser.add_argument("--resume", action="store_true", help="try only what no earlier run killed")
    parser.add_argument("--list", action="store_true", help="only list the sample")
    arguments = parser.parse_args()
    chosen = [_named(name) for name in arguments.mutant.split()] if arguments.mutant else _sample(arguments)
    if arguments.list or len(chosen) == 1:
        print(*(f"{mutation.name}\n{difference(ROOT, mutation)}" for mutation in chosen), sep="\n")
    if arguments.list:
        return
    reach = Reach(ROOT, BUILD / "reach")
    warm = [Warm(Mirror(ROOT, BUILD), ROOT) for _ in range(max(1, min(arguments.jobs, len(chosen))))]
    equivalents = Equivalents(Path(__file__).with_name("equivalent.toml"), ROOT)
    results = Results(BUILD / "results.json", ROOT)
    if arguments.resume:
        chosen = results.take_killed(chosen)

    def attempt(worker: Warm, mutation: Mutation) -> None:
        result, reason = Result(mutation), equivalents.reason(mutation)
        if not (arguments.resume and reason):
            Trial(worker, reach, killers, arguments.budget).run(result)
        result.reason = reason if result.survived else ""
        results.add(result)
        print(f"[{results.added}/{len(chosen)}] {result.line()}", flush=True)

    def go_on(worker: Warm, result: Result) -> None:
        Trial(worker, reach, killers, arguments.more).run(result)
        results.store(result)
        print(f"[again] {result.line()}", flush=True)

    try:
        if not arguments.no_measure:
            stale = [file for file in reach.stale() if file.startswith(arguments.measure or "")]
            _in_parallel(warm, stale, lambda worker, file: _measure(reach, worker, file))
        if arguments.measure is not None:
            return
        killers = Killers(BUILD / "killers.json")
        _in_parallel(warm, chosen, attempt)
        # The question is what tests notice, not how soon: many survivors are in the reach of hundreds of tests.
        _in_parallel(warm, results.survivors() if arguments.more else [], go_on)
    finally:
        for worker in warm:
            worker.close()
        if results.added:
            text = results.text()
            (BUILD / "results.md").write_text(text + "\n")
            print(f"\n{text}\n\nwritten to {(BUILD / 'results.md').relative_to(ROOT)}")


def _sample(arguments: argparse.Namespace) -> list[Mutation]:
    return sample(ROOT, arguments.count, arguments.seed, arguments.room)


def _named(name: str) -> Mutation:
    path = name.split(":")[0]
    found = [each for each in mutations(path, (ROOT / path).read_bytes()) if each.name == name]
    if not found:
        sys.exit(f"no mutant {name!r}: the file has changed since")
    return found[0]


def _measure(reach: Reach, worker: Warm, file: str) -> None:
    measured = worker.measure(file)
    if measured is None:
        print(f"measured {file}: it doesn't end", flush=True)
        return
    reach.keep(file, measured)
    tests = measured["tests"]
    clock, work = (sum(test[key] for test in tests) for key in ("clock", "work"))
    print(f"measured {file}: {len(tests)} tests, {clock:.1f} s, {work:.1f} s of the processor", flush=True)
    for test in tests:
        if not test["passed"]:
            print(f"    skipped or failed without a mutant: {test['name']}", flush=True)


def _in_parallel(workers, tasks, work) -> None:  # type: ignore[no-untyped-def]
    """Calls `work(worker, task)` for each task, each worker doing one at a time."""
    waiting: queue.SimpleQueue = queue.SimpleQueue()  # type: ignore[type-arg]
    for task in tasks:
        waiting.put(task)
    failed: list[BaseException] = []

    def go_on(worker: Warm) -> None:
        try:
            while not failed:
                work(worker, waiting.get_nowait())
        except queue.Empty:
            pass
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=go_on, args=(worker,), daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


if __name__ == "__main__":
    main()
