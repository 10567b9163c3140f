"""Names of what lies in a run's folder."""

#: A copy of the base version's file.
BASE = "base"
#: The state that training goes on from.
CHECKPOINTS = "checkpoints"
#: The best epoch's model so far.
BEST = "best"
#: What callbacks write.
FILES = "files"
#: The trained model, until it is published, and its file.
RESULT = "result"
MODEL = "model.keras"
#: How the process ended.
OUTCOME = "outcome.json"
#: Held by the process while it lives.
CHILD_LOCK = "child.lock"
#: What the process prints.
CHILD_OUTPUT = "child.log"
