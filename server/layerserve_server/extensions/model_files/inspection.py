"""Reports about model files, as data or text."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from layerserve_server.inference.admission import shape_text
from layerserve_server.inference.runner import TensorSpec, load_model

if TYPE_CHECKING:
    import layergraph

HEADINGS = ("Layer", "Class", "Node", "Output shape", "From", "Parameters")


def inspect(path: Path, *, engines: bool = False) -> dict[str, Any]:
    """Returns a report about a model file as plain data; with `engines`, also times of engines and why some can't run.

    Raises OSError, layergraph's errors, which list everything that is unsupported, and GoldenMismatchError if the
    model's outputs differ from the golden file beside it.
    """
    model = load_model(path)
    return {
        **(_engines(model.plan()) if engines else {}),
        "file": str(path),
        "keras_version": model.keras_version,
        "compiled": model.compiled,
        "compile_problem": cast("layergraph.Model", model).compile_problem,
        "steps": _steps(cast("layergraph.Model", model)),
        "parameters": model.count_params(),
        "inputs": [_spec(spec) for spec in model.input_specs],
        "outputs": [
            {**_spec(spec), "from": _address(tensor)}
            for spec, tensor in zip(model.output_specs, model.output_nodes(), strict=True)
        ],
        "layers": [
            {
                "path": layer.path,
                "name": layer.name,
                "class": layer.class_name,
                "parameters": layer.parameter_count,
                "trainable": layer.trainable,
                "nodes": [
                    {
                        "index": node.index,
                        "inputs": [
                            {"from": _address(tensor), "argument": tensor.argument, **_tensor(tensor)}
                            for tensor in node.inputs
                        ],
                        "outputs": [_tensor(tensor) for tensor in node.outputs],
                    }
                    for node in layer.nodes
                ],
                "nested_outputs": [{"from": _address(tensor), **_tensor(tensor)} for tensor in layer.nested_outputs],
            }
            for layer in model.node_table()
        ],
    }


def make_golden(path: Path) -> Path:
    """Writes a golden file, with eager torch's outputs, beside the model file or to the version folder.

    Returns its path. Raises OSError, and layergraph's errors.
    """
    import layergraph
    from layergraph import golden
    from layergraph.archive.finding import find_model

    found = find_model(path)
    proof = golden.golden_path(found)
    golden.write_golden(golden.make_golden(layergraph.load_model(found)), proof)
    return proof


def text(report: dict[str, Any]) -> str:
    """Returns a report as text with a table, made with rich if that is installed."""
    head = [
        f"{report['file']}, written by Keras {report['keras_version'] or '(unknown)'}, "
        f"{'compiled' if report['compiled'] else 'not compiled'}, {report['parameters']:,} parameters"
    ]
    if problem := report.get("compile_problem"):
        head.append(f"  its compile settings can't be used to train it: {problem}")
    for kind in ("inputs", "outputs"):
        head += [f"  {kind[:-1]} {spec['name']}: {shape_text(spec['shape'])} {spec['dtype']}" for spec in report[kind]]
    return "\n".join([*head, *_step_lines(report), *_engine_lines(report), _table(_rows(report))])


def _steps(model: layergraph.Model) -> dict[str, Any]:
    """Whether the model computes sequences step by step: the states that it keeps, or why it doesn't."""
    from layergraph.errors import NotSteppableError

    try:
        stepper = model.stepper()
    except NotSteppableError as refused:
        return {"steppable": False, "layer": refused.layer, "class": refused.class_name, "reason": refused.reason}
    return {
        "steppable": True,
        "states": [{"name": s.name, "shape": [None, *s.shape], "dtype": s.dtype} for s in stepper.state_specs],
        "timed_inputs": list(stepper.timed_inputs),
        "first_inputs": list(stepper.first_inputs),
    }


def _step_lines(report: dict[str, Any]) -> list[str]:
    """A line for models that have something to do with timesteps."""
    found = report.get("steps", {})
    if found.get("steppable"):
        states = ", ".join(f"{spec['name']} {shape_text(spec['shape'])} {spec['dtype']}" for spec in found["states"])
        return [f"  steppable: yes, states: {states}"]
    return [f"  steppable: no: {found['layer']} ({found['class']}) {found['reason']}"] if found.get("layer") else []


def _engines(plan: Any) -> dict[str, Any]:
    found = plan.tune(shared=True)
    choices = [{"rows": c.rows, "engine": c.engine, "milliseconds": dict(c.milliseconds)} for c in found.choices]
    return {"engines": choices, "engines_dropped": dict(found.dropped)}


def _engine_lines(report: dict[str, Any]) -> list[str]:
    lines = []
    for choice in report.get("engines", ()):
        times = ", ".join(f"{name} {milliseconds:.3g} ms" for name, milliseconds in choice["milliseconds"].items())
        lines.append(f"  {choice['rows']} row{'s' * (choice['rows'] != 1)}: {choice['engine']} ({times})")
    return lines + [f"  not {name}: {reason}" for name, reason in report.get("engines_dropped", {}).items()]


def _rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """Returns a row per node; the columns of the layer are filled only in its first row."""
    rows: list[tuple[str, ...]] = []
    for layer in report["layers"]:
        first = (layer["path"], layer["class"])
        parameters = f"{layer['parameters']:,}"
        for node in layer["nodes"] or [{"index": "", "inputs": [], "outputs": []}]:
            shapes = ", ".join(shape_text(tensor["shape"]) for tensor in node["outputs"])
            origins = ", ".join(tensor["from"] for tensor in node["inputs"])
            rows.append((*first, str(node["index"]), shapes, origins, parameters))
            first, parameters = ("", ""), ""
    return rows


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        widths = [max(map(len, column)) for column in zip(HEADINGS, *rows, strict=True)]
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in (HEADINGS, *rows))
    table = Table(*HEADINGS, box=None, header_style="bold")
    for row in rows:
        table.add_row(*row)
    stream = io.StringIO()
    # As wide as the table, so that no shape is cut off.
    Console(file=stream, width=max(80, *(sum(map(len, row)) + 12 for row in rows))).print(table)
    return stream.getvalue().rstrip()


def _spec(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype}


def _address(tensor: Any) -> str:
    return f"{tensor.layer}:{tensor.node_index}:{tensor.tensor_index}"


def _tensor(tensor: Any) -> dict[str, Any]:
    return {"shape": list(tensor.shape), "dtype": tensor.dtype, "masked": tensor.masked}
