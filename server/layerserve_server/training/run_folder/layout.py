"""Names of files and folders in a run's folder."""

from pathlib import Path

#: Folder with a copy of the base version's files.
BASE = "base"
#: Folder with the latest checkpoint.
CHECKPOINTS = "checkpoints"
#: Folder of what a kind of an extension needs only while the run can be resumed.
OF_KIND = "kind"
#: Folder with the checkpoint of the best epoch so far, for a run that publishes that.
BEST = "best"
#: Folder with the checkpoints that the run keeps.
KEPT = "kept"
#: Folder with the checkpoint of another run that this run begins with.
START = "start"
#: Digests of the data that the run has received.
DIGESTS = "digests.json"
#: Folder with kept outputs of frozen layers.
CACHE = "cache"
#: Folder of files written by callbacks, or of what else the run makes for its owner; and of such files in the making.
FILES = "files"
UNFINISHED_FILES = f"{OF_KIND}/{FILES}"
#: Folder with the version that was published while the run trained, to be compared with the result.
RIVAL = "rival"
#: Folder with the trained model, until it is published.
RESULT = "result"
#: The process's `RunResult`.
OUTCOME = "outcome.json"
#: Locked by the process while it is alive.
CHILD_LOCK = "child.lock"
#: Output of the process.
CHILD_OUTPUT = "child.log"


def result_file(folder: Path, suffix: str = "") -> Path:
    """Returns the path of a run's trained model, with this suffix or, if empty, that of the existing file."""
    if not suffix:
        suffix = ".h5" if (folder / RESULT / "model.h5").exists() else ".keras"
    return folder / RESULT / f"model{suffix}"
