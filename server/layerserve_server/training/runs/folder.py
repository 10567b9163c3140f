"""Names of what lies in a run's folder."""

from pathlib import Path

#: A copy of the base version's file.
BASE = "base"
#: The state that training goes on from.
CHECKPOINTS = "checkpoints"
#: The best epoch's model so far.
BEST = "best"
#: What callbacks write.
FILES = "files"
#: The trained model, until it is published.
RESULT = "result"
#: How the process ended.
OUTCOME = "outcome.json"
#: Held by the process while it lives.
CHILD_LOCK = "child.lock"
#: What the process prints.
CHILD_OUTPUT = "child.log"


def result_file(folder: Path, suffix: str = "") -> Path:
    """The file of a run's result, with that suffix, or whichever is there."""
    if not suffix:
        suffix = ".h5" if (folder / RESULT / "model.h5").exists() else ".keras"
    return folder / RESULT / f"model{suffix}"
