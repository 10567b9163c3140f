"""Table of the options of sessions of online training, as the contract has them: some are also those of runs."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from layerserve.training.options.arguments import CHECKPOINTS_OPTION, PUBLISH_OPTION, RESOURCES_OPTION
from layerserve.training.options.contract import BUDGET, COMPILE, RUN
from layerserve.training.options.kinds import SECONDS, Flag, Number, whole
from layerserve.training.options.option import Option, option, options_of

#: Maximum of `replay_share`.
MAX_SHARE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlineOptions:
    """Options of a session: fields of OnlineSpec itself."""

    publish: bool = option(True, Flag(), "Publish what isn't published yet when the session is ended.")
    publish_every_steps: int = option(0, whole(0, 64), "Steps after each of which a version is published.")
    publish_every_seconds: float = option(
        0.0, SECONDS, "Seconds after which a version is published if there were steps.", unit="seconds"
    )
    idle_seconds: float | None = option(
        None,
        SECONDS,
        "Seconds without a request after which the session is interrupted.",
        unit="seconds",
        otherwise="the server's",
    )
    replay_steps: int = option(0, whole(0), "Number of the last batches that are kept for `replay_share`.")
    replay_share: float = option(
        0.0,
        Number(f"a number from 0 to {MAX_SHARE}", limit=math.nextafter(MAX_SHARE, math.inf)),
        "Rows of kept batches that are added to a step, as a share of its rows.",
    )


#: Options of `train` that a session has, too.
_SHARED = (
    *("publish_label", "format", "class_weight", "seed", "freeze"),
    *("on_nan", "checkpoint_seconds", "description"),
)
_HELP = {"on_nan": "What happens with a step that makes loss or weights infinite or NaN: with 'stop' it is refused."}

#: The options of a session that are also options of a run; and those that aren't.
RUN_OPTIONS = tuple(
    dataclasses.replace(one, help=_HELP.get(one.name, one.help)) for name in _SHARED for one in RUN if one.name == name
)
SESSION = options_of(OnlineOptions)

_SESSION = {option.name: option for option in (*SESSION, *RUN_OPTIONS)}
#: The arguments of a session.
ONLINE: tuple[Option, ...] = (
    *COMPILE,
    *(_SESSION[name] for name in ("class_weight", "seed", "freeze", "on_nan")),
    dataclasses.replace(
        PUBLISH_OPTION,
        help="Publish what isn't published yet when the session is ended.",
        parts={name: _SESSION[PUBLISH_OPTION.parts[name].name] for name in ("label", "format")},
        choice=_SESSION["publish"],
    ),
    *(_SESSION[name] for name in ("publish_every_steps", "publish_every_seconds", "idle_seconds")),
    *(_SESSION[name] for name in ("replay_steps", "replay_share")),
    dataclasses.replace(CHECKPOINTS_OPTION, parts={"resume_seconds": _SESSION["checkpoint_seconds"]}),
    dataclasses.replace(RESOURCES_OPTION, parts={option.name: option for option in BUDGET}),
    _SESSION["description"],
)
