"""The panels of the Grafana dashboard, as a table, and the dashboard that `deploy/generate.py` writes from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 8, 7
#: What limits a query to the servers that are chosen above the panels, and to the models.
SERVERS = 'job=~"$job",instance=~"$instance"'
MODELS = f'{SERVERS},model=~"$model"'
#: Legends.
INSTANCE, MODEL = "{{instance}}", "{{model}}"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True, slots=True)
class Panel:
    """A graph of some queries, each with the legend of its series. `unit` is one of Grafana's."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    kind: str = "timeseries"


def rate(metric: str, by: str, labels: str = SERVERS) -> str:
    return f"sum by ({by}) (rate({metric}{{{labels}}}[$__rate_interval]))"


def quantile(number: float, metric: str, by: str, labels: str = MODELS) -> str:
    return f"histogram_quantile({number}, {rate(f'{metric}_bucket', f'{by}, le', labels)})"


def mean(metric: str, by: str, labels: str = MODELS) -> str:
    return f"{rate(f'{metric}_sum', by, labels)} / {rate(f'{metric}_count', by, labels)}"


def gauge(metric: str, by: str, labels: str = SERVERS) -> str:
    return f"sum by ({by}) ({metric}{{{labels}}})"


#: Panels by the heading of their row.
ROWS: dict[str, tuple[Panel, ...]] = {
    "Servers": (
        Panel("Servers", "short", (('sum(up{job=~"$job"})', "up"),), "stat"),
        Panel("Ready", "short", ((f"sum(layerserve_ready{{{SERVERS}}})", "ready"),), "stat"),
        Panel(
            "Releases",
            "short",
            ((f"count by (version) (layerserve_build_info{{{SERVERS}}})", "{{version}}"),),
            kind="stat",
        ),
        Panel("Restarts in an hour", "short", ((f"changes(process_start_time_seconds{{{SERVERS}}}[1h])", INSTANCE),)),
        Panel("Processor", "percentunit", ((rate("process_cpu_seconds_total", "instance"), INSTANCE),)),
        Panel("Resident memory", "bytes", ((gauge("process_resident_memory_bytes", "instance"), INSTANCE),)),
        Panel(
            "Memory for requests and replies, of its limit",
            "percentunit",
            (
                (
                    f"layerserve_buffered_bytes{{{SERVERS}}} / layerserve_buffered_limit_bytes{{{SERVERS}}}",
                    INSTANCE,
                ),
            ),
        ),
        Panel(
            "Open files, of their limit",
            "percentunit",
            ((f"process_open_fds{{{SERVERS}}} / process_max_fds{{{SERVERS}}}", INSTANCE),),
        ),
        Panel(
            "Files and keys not read again",
            "short",
            ((gauge("layerserve_access_stale", "what"), "{{what}}"),),
        ),
    ),
    "Calls": (
        Panel("Calls by method", "reqps", ((rate("layerserve_requests_total", "method"), "{{method}}"),)),
        Panel("Calls by status", "reqps", ((rate("layerserve_requests_total", "status"), "{{status}}"),)),
        Panel(
            "Calls with errors, of all",
            "percentunit",
            (
                (
                    f"{rate('layerserve_errors_total', 'status')} / ignoring (status) group_left "
                    f"sum(rate(layerserve_requests_total{{{SERVERS}}}[$__rate_interval]))",
                    "{{status}}",
                ),
            ),
        ),
        Panel(
            "Time of calls",
            "s",
            (
                (quantile(0.5, "layerserve_request_seconds", "method"), "{{method}}, median"),
                (quantile(0.99, "layerserve_request_seconds", "method"), "{{method}}, 99 %"),
            ),
        ),
        Panel("Calls in progress", "short", ((gauge("layerserve_calls_in_flight", "method"), "{{method}}"),)),
        Panel(
            "Requests of streams by status",
            "reqps",
            ((rate("layerserve_streamed_requests_total", "status"), "{{status}}"),),
        ),
        Panel(
            "Time of requests of streams",
            "s",
            (
                (quantile(0.5, "layerserve_streamed_request_seconds", "method"), "{{method}}, median"),
                (quantile(0.99, "layerserve_streamed_request_seconds", "method"), "{{method}}, 99 %"),
            ),
        ),
    ),
    "Predictions": (
        Panel("Rows", "short", ((rate("layerserve_rows_total", "model, version", MODELS), "{{model}} {{version}}"),)),
        Panel(
            "Time in the queue",
            "s",
            (
                (quantile(0.5, "layerserve_queue_seconds", "model"), "{{model}}, median"),
                (quantile(0.99, "layerserve_queue_seconds", "model"), "{{model}}, 99 %"),
            ),
        ),
        Panel(
            "Time to compute a batch",
            "s",
            (
                (quantile(0.5, "layerserve_compute_seconds", "model"), "{{model}}, median"),
                (quantile(0.99, "layerserve_compute_seconds", "model"), "{{model}}, 99 %"),
            ),
        ),
        Panel("Sequences", "short", ((f"layerserve_sequences{{{SERVERS}}}", INSTANCE),)),
        Panel("States of sequences", "bytes", ((f"layerserve_sequence_bytes{{{SERVERS}}}", INSTANCE),)),
        Panel(
            "Sequences that begin and end",
            "short",
            (
                (rate("layerserve_sequences_started_total", "model", MODELS), "{{model}}, begun"),
                (rate("layerserve_sequences_ended_total", "model", MODELS), "{{model}}, ended"),
                (rate("layerserve_sequences_dropped_total", "model, reason", MODELS), "{{model}}, dropped: {{reason}}"),
            ),
        ),
        Panel("Images by outcome", "short", ((rate("layerserve_images_total", "outcome"), "{{outcome}}"),)),
        Panel("Rows per batch", "short", ((mean("layerserve_batch_rows", "model"), MODEL),)),
        Panel(
            "Requests per batch",
            "short",
            (
                (
                    f"{rate('layerserve_batch_requests_total', 'model', MODELS)} / "
                    f"{rate('layerserve_compute_seconds_count', 'model', MODELS)}",
                    MODEL,
                ),
            ),
        ),
        Panel(
            "In the queue",
            "short",
            (
                (gauge("layerserve_queue_rows", "model", MODELS), "{{model}}, rows"),
                (gauge("layerserve_queue_requests", "model", MODELS), "{{model}}, requests"),
            ),
        ),
    ),
    "Models": (
        Panel("Versions in memory", "short", ((gauge("layerserve_model_loaded", "model", MODELS), MODEL),)),
        Panel("Versions by state", "short", ((gauge("layerserve_model_versions", "state", MODELS), "{{state}}"),)),
        Panel(
            "Versions that failed to load",
            "short",
            ((gauge("layerserve_model_load_failures_total", "model", MODELS), MODEL),),
        ),
        Panel(
            "Time to load a version, mean since the start",
            "s",
            (
                (
                    f"{gauge('layerserve_model_load_seconds_sum', 'model', MODELS)} / "
                    f"{gauge('layerserve_model_load_seconds_count', 'model', MODELS)}",
                    MODEL,
                ),
            ),
        ),
        Panel("Memory of loaded versions", "bytes", ((gauge("layerserve_loaded_bytes", "instance"), INSTANCE),)),
        Panel(
            "Versions unloaded to make room",
            "short",
            ((rate("layerserve_model_evictions_total", "model", MODELS), MODEL),),
        ),
        Panel(
            "Time that calls wait for a version, 99 %",
            "s",
            ((quantile(0.99, "layerserve_model_load_wait_seconds", "outcome", SERVERS), "{{outcome}}"),),
        ),
        Panel("Versions loaded", "short", ((gauge("layerserve_model_loads_total", "model", MODELS), MODEL),)),
        Panel(
            "Invalid settings files",
            "short",
            ((gauge("layerserve_model_settings_errors_total", "model", MODELS), MODEL),),
        ),
        Panel(
            "Requests of shadow versions by outcome",
            "reqps",
            ((rate("layerserve_shadow_requests_total", "model, outcome", MODELS), "{{model}} {{outcome}}"),),
        ),
        Panel(
            "Largest difference of a shadow version, 99 %",
            "none",
            (
                (quantile(0.99, "layerserve_shadow_absolute_difference", "model"), "{{model}}, absolute"),
                (quantile(0.99, "layerserve_shadow_relative_difference", "model"), "{{model}}, relative"),
            ),
        ),
    ),
    "Training": (
        Panel("Runs by state", "short", ((gauge("layerserve_training_runs", "state"), "{{state}}"),)),
        Panel(
            "Runs that ended",
            "short",
            ((gauge("layerserve_training_runs_ended_total", "model, state", MODELS), "{{model}} {{state}}"),),
        ),
        Panel("Loss of the newest run", "none", ((f"layerserve_training_loss{{{MODELS}}}", MODEL),)),
        Panel("Epoch of the newest run", "short", ((f"layerserve_training_epoch{{{MODELS}}}", MODEL),)),
        Panel("Step in the epoch", "short", ((f"layerserve_training_step{{{MODELS}}}", MODEL),)),
    ),
    "Store and telemetry": (
        Panel("The store answers", "short", ((f"layerserve_store_up{{{SERVERS}}}", INSTANCE),)),
        Panel(
            "Age of the last listing",
            "s",
            ((f"time() - layerserve_store_listed_timestamp_seconds{{{SERVERS}}}", INSTANCE),),
        ),
        Panel(
            "Fetched from the store",
            "short",
            (
                (gauge("layerserve_store_versions_fetched_total", "model", MODELS), "{{model}}, versions"),
                (gauge("layerserve_store_fetch_failures_total", "model", MODELS), "{{model}}, failures"),
            ),
        ),
        Panel("Copies of versions", "bytes", ((gauge("layerserve_store_cache_bytes", "instance"), INSTANCE),)),
        Panel("Fetched bytes", "Bps", ((rate("layerserve_store_fetched_bytes_total", "model", MODELS), MODEL),)),
        Panel("Telemetry that was lost", "short", ((rate("layerserve_telemetry_dropped_total", "kind"), "{{kind}}"),)),
    ),
}


def dashboard() -> dict[str, Any]:
    """The dashboard, as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    y = 0
    for heading, row in ROWS.items():
        place = {"x": 0, "y": y, "w": 3 * WIDTH, "h": 1}
        panels.append({"id": len(panels) + 1, "type": "row", "title": heading, "gridPos": place, "panels": []})
        y += 1
        for index, panel in enumerate(row):
            place = {"x": index % 3 * WIDTH, "y": y + index // 3 * HEIGHT, "w": WIDTH, "h": HEIGHT}
            panels.append(_panel(len(panels) + 1, panel, place))
        y += -(-len(row) // 3) * HEIGHT
    return {
        "uid": "layerserve",
        "title": "layerserve",
        "tags": ["layerserve"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": _variables()},
        "panels": panels,
    }


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    targets = [
        {"refId": chr(ord("A") + index), "datasource": DATASOURCE, "expr": expression, "legendFormat": legend}
        for index, (expression, legend) in enumerate(panel.queries)
    ]
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "datasource": DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": targets,
    }


def _variables() -> list[dict[str, Any]]:
    source = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
    names = (("job", "layerserve_build_info", "job"), ("instance", 'layerserve_build_info{job=~"$job"}', "instance"))
    models = ("model", f"layerserve_model_versions{{{SERVERS}}}", "model")
    return [source, *(_variable(*one) for one in (*names, models))]


def _variable(name: str, metric: str, label: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": name.capitalize(),
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": f"label_values({metric}, {label})", "refId": name},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        # Also for metrics of no model.
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }
