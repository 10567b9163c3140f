"""Makes the files of deploy/ that follow from others: `make docs`; `--check` fails where one is stale.

The dashboard from its table of panels, the alerts as a resource of the Prometheus Operator, copies of both in the chart
(which can't read files outside of it), and in the schema of the chart's values the settings of the server.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml
from layerserve_server.extensions.installed import Settings

DEPLOY = Path(__file__).parent
MONITORING, CHART = DEPLOY / "monitoring", DEPLOY / "helm" / "layerserve"
SCHEMA = CHART / "values.schema.json"
#: Settings that the chart's other values and its templates set, or that make no sense in a pod.
OTHERS = {
    *("path", "config", "state", "host", "grpc_port", "metrics_port", "check_config"),
    *("tokens", "allow_anonymous", "cache_bytes", "training_backend", "training_job"),
}


def main() -> int:
    sys.path.insert(0, str(MONITORING))
    from dashboard import dashboard

    panels, rules = json.dumps(dashboard(), indent=1) + "\n", (MONITORING / "alerts.yaml").read_text("utf-8")
    made = {
        MONITORING / "dashboard.json": panels,
        MONITORING / "prometheusrule.yaml": prometheus_rule(rules),
        CHART / "files" / "dashboard.json": panels,
        CHART / "files" / "alerts.yaml": rules,
        SCHEMA: json.dumps(with_settings(json.loads(SCHEMA.read_text("utf-8"))), indent=2) + "\n",
    }
    stale = [path for path, text in made.items() if not path.exists() or path.read_text("utf-8") != text]
    if stale and "--check" in sys.argv[1:]:
        print(f"stale: {', '.join(path.name for path in stale)}: run `make docs` and commit", file=sys.stderr)
        return 1
    for path in stale:
        path.write_text(made[path], "utf-8")
    return 0


def prometheus_rule(rules: str) -> str:
    """A file of rules as a resource."""
    resource = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "layerserve"},
        "spec": yaml.safe_load(rules),
    }
    return "# Made from alerts.yaml by `make docs`.\n" + yaml.safe_dump(resource, sort_keys=False, width=1000)


def with_settings(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of the chart's values with the server's settings."""
    fields = Settings.model_json_schema()["properties"]
    settings = {name: _value(field) for name, field in fields.items() if name not in OTHERS}
    schema["$defs"]["settings"]["properties"] = settings
    return schema


def _value(field: dict[str, Any]) -> dict[str, Any]:
    """Returns the JSON Schema of a setting's value."""
    kept = ("type", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "pattern")
    # A path, which may be an address, has its type twice.
    (only,) = {one.get("type"): one for one in field.get("anyOf", [field]) if one.get("type") != "null"}.values()
    return {name: only[name] for name in kept if name in only} | {"description": field["description"]}


if __name__ == "__main__":
    sys.exit(main())
