"""Makes the pages of docs/ that come from the code: `make docs`; `--check` fails where one is stale."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from layergraph.layers.hub.table import LAYERS as HUB_LAYERS
from layergraph.layers.hub.table import PACKAGE
from layergraph.layers.table import LAYERS
from layergraph.models.hub.table import HUB_MODELS
from layergraph.ops.table import OPERATIONS
from layerserve.cli.app import PANELS, application
from layerserve.cli.extensions import HELP
from layerserve.cli.groups import WHOLE
from layerserve.cli.variables import PREFIX
from layerserve_server.access.rights import ALTERNATIVES, RIGHTS
from layerserve_server.extensions.installed import EXTENSIONS, Settings
from layerserve_server.extensions.installed import model_settings as all_model_settings
from layerserve_server.observability.metrics import Metrics
from layerserve_server.observability.process_metrics import ProcessMetrics, register_build_info
from layerserve_server.repository.model_settings import SETTINGS_FILE
from layerserve_server.settings.flags import is_basic, sections
from layerserve_server.toml_text import toml_value
from layerserve_server.wiring import RIGHTS as NEEDED
from typer.main import get_command

DOCS = Path(__file__).parent

#: First word of the name of a folder or module of layers -> heading. Others go under their own word.
FAMILIES = {
    "input": "Core",
    "up": "Reshaping",
    "locally": "Convolutional",
    "rnn": "Recurrent",
    "applications": "Of keras.applications",
    "regularization": "Noise and regularization",
    "keras1": "Of Keras 1",
}


def main() -> int:
    pages = {
        "layers": layers(),
        "operations": operations(),
        "settings": settings(),
        "model-settings": model_settings(),
        "metrics": metrics(),
        "rights": rights(),
        "commands": commands(),
    }
    stale = []
    for name, text in pages.items():
        page = DOCS / f"{name}.md"
        if not page.exists() or page.read_text("utf-8") != text:
            stale.append(f"docs/{page.name}")
            if "--check" not in sys.argv[1:]:
                page.write_text(text, "utf-8")
    if stale and "--check" in sys.argv[1:]:
        print(f"stale: {', '.join(stale)}: run `make docs` and commit", file=sys.stderr)
        return 1
    return 0


def layers() -> str:
    """Classes that a model file may name, by family."""
    families: dict[str, list[str]] = {}
    for name, layer in LAYERS.items():
        word = layer.__module__.split(".")[2].partition("_")[0]
        families.setdefault(FAMILIES.get(word, word.capitalize()), []).append(name)
    hub = [name.removeprefix(PACKAGE) for name in HUB_LAYERS]
    families["Of KerasHub (in `layergraph.layers.hub`)"] = hub
    about = "Each has Keras's options and is compared with stock Keras. Other classes are refused by name."
    body = table(("family", "classes"), [(one, listed(names)) for one, names in families.items()])
    models = sorted({kind.__name__ for kind in HUB_MODELS.values()})
    kinds = {"Backbone": "backbones", "Classifier": "classifiers", "MaskedLM": "masked language models"}
    rows = [(kinds[end], listed([name for name in models if name.endswith(end)])) for end in kinds]
    hub_models = (
        "## Models of KerasHub\n\nFiles and preset folders name these classes with their hyperparameters (see "
        "[serving](serving.md#models-of-kerashub)).\n\n"
    )
    return page("Layers", about, f"{body}\n{hub_models}{table(('kind', 'classes'), rows)}")


def operations() -> str:
    """Operations that may be nodes of a graph."""
    ours = [name for name in OPERATIONS if not name.startswith("tf>")]
    theirs = [name.removeprefix("tf>") for name in OPERATIONS if name.startswith("tf>")]
    text = f"## Of keras.ops, and Python's operators\n\n{listed(ours)}\n\n"
    text += f"## Of TensorFlow, in files of tf.keras\n\n{listed(theirs)}\n"
    return page("Operations", "Operations that may be nodes of a model's graph.", text)


def settings() -> str:
    """Every setting of `layerserve serve`."""
    about = (
        f"Settings of `layerserve serve`. `some_setting` is the flag `--some-setting`, `{PREFIX}SOME_SETTING` in the\n"
        "environment and `some_setting` in the TOML file that `--config` names. A flag overrides the environment, and\n"
        "the environment the file."
    )
    about += "\n\n`layerserve serve --help` shows the settings in bold, `layerserve serve --help-all` all of them."
    parts = []
    for title, names in sections(Settings.model_fields):
        fields = [(name, Settings.model_fields[name]) for name in names]
        rows = [
            (
                f"**`{name}`**" if is_basic(field) else f"`{name}`",
                f"`{toml_value(field.default)}`" if field.default is not None else "",
                field.description or "",
            )
            for name, field in fields
        ]
        parts.append(f"## {title}\n\n{table(('setting', 'default', 'meaning'), rows)}")
    return page("Settings", about, "\n".join(parts))


def model_settings() -> str:
    """Every setting of a model."""
    about = (
        f"Settings of one model, in `{SETTINGS_FILE}` in its folder (see [the repository](repository.md)). A setting\n"
        "without a default has the value of the server's [setting](settings.md) of the same name, where it has one."
    )
    rows = [
        (f"`{name}`", "" if field.default is None else f"`{toml_value(field.default)}`", field.description or "")
        for name, field in all_model_settings().model_fields.items()
    ]
    return page("Settings of a model", about, table(("setting", "default", "meaning"), rows))


def metrics() -> str:
    """Every metric of the server."""
    about = (
        "At `/metrics` on the metrics port, in Prometheus's format. There a counter's name ends in `_total`, and\n"
        "that of an info metric in `_info`."
    )
    found = Metrics()
    found.watch_memory(lambda: 0, 0)
    found.watch_loaded(lambda: 0)
    found.watch_ready(bool)
    found.watch_versions(dict)
    register_build_info(found.registry, "")
    ProcessMetrics(found.registry, list)
    for one in EXTENSIONS:
        if one.metrics is not None:
            one.metrics(found.families)
    labels = {**found.labels, "layerserve_build": ("version",)}
    rows = [
        (f"`{family.name}`", family.type, ", ".join(labels.get(family.name, ())), family.documentation)
        for family in found.registry.collect()
    ]
    return page("Metrics", about, table(("metric", "type", "labels", "meaning"), rows))


def rights() -> str:
    """The right of every method and path."""
    about = (
        "The right that each gRPC method and each path of the metrics port needs. A path of the [HTTP port](http.md)\n"
        "needs the right of the gRPC method that it becomes. [Access](access.md) describes how callers get rights."
    )
    # A method has two parts, its service and its name.
    paths = {name: right for name, right in NEEDED.items() if name.count("/") != 2}
    needed: dict[tuple[str, str], list[str]] = {}
    for name, right in NEEDED.items() - paths.items():
        service, method = name.strip("/").split("/")
        needed.setdefault((service, right), []).append(method)
    order = ("open", *ALTERNATIVES, *RIGHTS)
    rows = [
        (service, right if right in RIGHTS else f"({right})", ", ".join(sorted(methods)))
        for (service, right), methods in sorted(needed.items(), key=lambda item: (item[0][0], order.index(item[0][1])))
    ]
    shown = [(f"`{path}`", right if right in RIGHTS else f"({right})") for path, right in paths.items()]
    methods = table(("service", "right", "methods"), [(f"`{service}`", *rest) for service, *rest in rows])
    return page("Rights", about, f"{methods}\n## Metrics port\n\n{table(('path', 'right'), shown)}")


def commands() -> str:
    """Every command, with the text of its help."""
    about = (
        "`layerserve COMMAND --help` shows the options of a command. Some options [belong to every command]"
        "(client.md#command-line)."
    )
    app = get_command(application(()))
    parts = []
    for title, panel in PANELS.items():
        rows = []
        for name in panel:
            command = app.commands.get(name)
            rows.append((name, HELP[name] if command is None else command.get_short_help_str(WHOLE)))
            for inner, one in getattr(command, "commands", {}).items():
                rows.append((f"{name} {inner}", one.get_short_help_str(WHOLE)))
        parts.append(
            f"## {title}\n\n{table(('command', 'what it does'), [(f'`{name}`', text) for name, text in rows])}"
        )
    return page("Commands", about, "\n".join(parts))


def page(title: str, about: str, body: str) -> str:
    return f"# {title}\n\n<!-- generated by `make docs`, don't edit -->\n\n{about}\n\n{body}"


def listed(names: Mapping[str, object] | list[str]) -> str:
    return ", ".join(sorted(names))


def table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in (heads, ("---",) * len(heads), *rows)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
