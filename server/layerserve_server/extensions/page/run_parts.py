"""Parts about training: runs with their curves and checkpoints, and sweeps with their trials."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from layerserve.v1 import checkpoints_pb2, sweeps_pb2, training_pb2

from layerserve_server.access.ownership import changes
from layerserve_server.extensions.drawings.charts import Chart, Series, chart
from layerserve_server.extensions.page.fields import Fields
from layerserve_server.extensions.page.guard import Guard
from layerserve_server.extensions.page.pages import Pages
from layerserve_server.extensions.page.part import Show, shown
from layerserve_server.services.training import SERVICE as TRAINING
from layerserve_server.transport.http.exchange import HttpReply, HttpRequest, HttpRoute

#: Of extensions that may not be there: then these parts aren't either.
SWEEPS, CHECKPOINTS = "/layerserve.v1.SweepService/", "/layerserve.v1.CheckpointService/"
#: Number of runs on a page of the list, and of sweeps, checkpoints and trials that are shown.
PAGE, MAX_SHOWN = 30, 200
#: Points of a curve, and number of charts.
POINTS, MAX_CHARTS = 400, 12
#: Before the name of a log of the validation data.
VALIDATION = "val_"
ENDED = (
    training_pb2.RUN_STATE_FINISHED,
    training_pb2.RUN_STATE_FAILED,
    training_pb2.RUN_STATE_CANCELLED,
)


class RunParts:
    """Parts of the page that describe training."""

    def __init__(self, pages: Pages, guard: Guard) -> None:
        self._pages = pages
        self._guard = guard

    def routes(self) -> list[HttpRoute]:
        """Returns the routes."""
        guard, series = self._guard, training_pb2.GetRunSeriesResponse
        checkpoints = checkpoints_pb2.ListCheckpointsResponse
        return [
            shown(guard, "runs", TRAINING + "ListRuns", training_pb2.ListRunsResponse, self._runs),
            shown(guard, "run", TRAINING + "GetRun", training_pb2.GetRunResponse, self._run),
            shown(guard, "progress", TRAINING + "GetRun", training_pb2.GetRunResponse, self._progress),
            shown(guard, "curves", TRAINING + "GetRunSeries", series, self._curves),
            shown(guard, "checkpoints", CHECKPOINTS + "ListCheckpoints", checkpoints, self._checkpoints),
            shown(guard, "sweeps", SWEEPS + "ListSweeps", sweeps_pb2.ListSweepsResponse, self._sweeps),
            shown(guard, "sweep", SWEEPS + "GetSweep", sweeps_pb2.GetSweepResponse, self._sweep),
        ]

    def _runs(self, fields: Fields, _: HttpRequest) -> tuple[training_pb2.ListRunsRequest, Show]:
        name, token = fields.text("name"), fields.text("page")

        def show(reply: training_pb2.ListRunsResponse) -> HttpReply:
            return self._pages.html(
                "runs.html",
                runs=reply.runs,
                name=name,
                page=token,
                following=reply.next_page_token,
                states=run_state,
                kinds=run_kind,
            )

        return training_pb2.ListRunsRequest(model_name=name, page_size=PAGE, page_token=token), show

    def _run(self, fields: Fields, _: HttpRequest) -> tuple[training_pb2.GetRunRequest, Show]:
        run, by_step = fields.required("id"), fields.text("by") == "step"

        def show(reply: training_pb2.GetRunResponse) -> HttpReply:
            kind = run_kind(reply.run)
            # Runs of other kinds are an extension's, and go on step by step.
            has_epochs = kind in ("training", "evaluation", "")
            return self._pages.html(
                "run.html",
                run=reply.run,
                kind=kind,
                by_step=by_step or not has_epochs,
                has_epochs=has_epochs,
                ended=reply.run.state in ENDED,
            )

        return training_pb2.GetRunRequest(run_id=run), show

    def _progress(self, fields: Fields, request: HttpRequest) -> tuple[training_pb2.GetRunRequest, Show]:
        run = fields.required("id")

        def show(reply: training_pb2.GetRunResponse) -> HttpReply:
            return self._pages.html(
                "progress.html",
                run=reply.run,
                kind=run_kind(reply.run),
                state=run_state(reply.run),
                ended=reply.run.state in ENDED,
                trains=changes(request.caller, reply.run.caller),
            )

        return training_pb2.GetRunRequest(run_id=run), show

    def _curves(self, fields: Fields, _: HttpRequest) -> tuple[training_pb2.GetRunSeriesRequest, Show]:
        run, by_step = fields.required("id"), fields.text("by") == "step"

        def show(reply: training_pb2.GetRunSeriesResponse) -> HttpReply:
            charts = curves(reply.series, "step" if by_step else "epoch")
            return self._pages.html("curves.html", charts=charts, by_step=by_step)

        return training_pb2.GetRunSeriesRequest(run_ids=[run], max_points=POINTS, by_step=by_step), show

    def _checkpoints(self, fields: Fields, request: HttpRequest) -> tuple[checkpoints_pb2.ListCheckpointsRequest, Show]:
        run, name = fields.required("id"), fields.text("name")

        def show(reply: checkpoints_pb2.ListCheckpointsResponse) -> HttpReply:
            return self._pages.html(
                "checkpoints.html",
                run=run,
                checkpoints=reply.checkpoints[-MAX_SHOWN:],
                monitor=reply.monitor,
                trains=request.caller.may("train", name),
            )

        return checkpoints_pb2.ListCheckpointsRequest(run_id=run), show

    def _sweeps(self, fields: Fields, _: HttpRequest) -> tuple[sweeps_pb2.ListSweepsRequest, Show]:
        name = fields.text("name")

        def show(reply: sweeps_pb2.ListSweepsResponse) -> HttpReply:
            sweeps = reply.sweeps[:MAX_SHOWN]
            return self._pages.html("sweeps.html", sweeps=sweeps, name=name, states=sweep_state)

        return sweeps_pb2.ListSweepsRequest(model_name=name), show

    def _sweep(self, fields: Fields, _: HttpRequest) -> tuple[sweeps_pb2.GetSweepRequest, Show]:
        def show(reply: sweeps_pb2.GetSweepResponse) -> HttpReply:
            sweep = reply.sweep
            best = sorted(sweep.trials, key=lambda one: _rank(one, sweep.larger_is_better))
            return self._pages.html(
                "sweep.html",
                sweep=sweep,
                state=sweep_state(sweep),
                trials=best[:MAX_SHOWN],
                chart=chart(
                    f"{sweep.monitor} of the best trials",
                    "epoch",
                    [Series(f"trial {one.number}", one.epochs, one.history) for one in best[:8] if one.history],
                    whole=True,
                ),
                states=trial_state,
            )

        return sweeps_pb2.GetSweepRequest(sweep_id=fields.required("id")), show


def run_state(run: training_pb2.Run) -> str:
    """Returns a run's state: "running"."""
    return training_pb2.RunState.Name(run.state).removeprefix("RUN_STATE_").lower()


def run_kind(run: training_pb2.Run) -> str:
    """Returns what a run does: "training"; empty for one of which the caller sees no more."""
    return training_pb2.RunKind.Name(run.kind).removeprefix("RUN_KIND_").lower().replace("unspecified", "")


def sweep_state(sweep: sweeps_pb2.Sweep) -> str:
    """Returns a sweep's state: "running"."""
    return sweeps_pb2.SweepState.Name(sweep.state).removeprefix("SWEEP_STATE_").lower()


def trial_state(trial: sweeps_pb2.Trial) -> str:
    """Returns a trial's state: "finished"."""
    return sweeps_pb2.TrialState.Name(trial.state).removeprefix("TRIAL_STATE_").lower()


def curves(series: Iterable[training_pb2.RunSeries], axis: str) -> Sequence[Chart]:
    """Returns a chart for each log, together with that of the validation data."""
    groups: dict[str, list[Series]] = {}
    for one in series:
        groups.setdefault(one.name.removeprefix(VALIDATION), []).append(Series(one.name, one.positions, one.values))
    # The losses first.
    names = sorted(groups, key=lambda name: (name != "loss", not name.endswith("loss")))
    return [
        chart(name, axis, sorted(groups[name], key=lambda one: one.name != name), whole=True)
        for name in names[:MAX_CHARTS]
    ]


def _rank(trial: sweeps_pb2.Trial, larger_is_better: bool) -> tuple[bool, float, int]:
    if not trial.HasField("value") or trial.value != trial.value:
        return True, 0.0, trial.number
    return False, -trial.value if larger_is_better else trial.value, trial.number
