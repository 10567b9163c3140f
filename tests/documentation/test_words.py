"""What the pages name in passing exists: commands, flags, variables, methods, metrics, files and headings."""

from __future__ import annotations

import io
import re
import shlex
from contextlib import redirect_stdout, suppress
from pathlib import Path
from urllib.parse import unquote

import pytest
from doc_blocks import PAGES, ROOT, name_of, outside_of_blocks
from doc_shell import check_make
from layerserve import AsyncClient, Client
from layerserve.cli import main
from layerserve.cli.variables import unknown
from layerserve_server.extensions.installed import variables
from layerserve_server.repository import audit

CODE = re.compile(r"`([^`\n]+)`")
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9_-]*")
LINK = re.compile(r"\]\(([^)\s]+)\)")
#: A name of several words, such as ModelNotFound or LSTMCell.
NAME = re.compile(r"\b[A-Z]+[a-z]\w*[A-Z]\w*\b")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
#: Names in other programs, and one that stands for any.
FOREIGN = {
    "--enable-feature",
    "--enable_batching",
    "--file_system_poll_wait_seconds",
    "--grpc-restricted-protocol",
    "--model-control-mode",
    "--model_base_path",
    "--model_config_file",
    "--model_name",
    "--monitoring_config_file",
    "--port",
    "--rest_api_port",
    "--some-setting",
    "InferenceRESTClient",
}
#: A row of the help that names a command.
COMMAND = re.compile(r"^  ([a-z]+)  ", re.MULTILINE)


@pytest.fixture(scope="module", name="flags")
def _flags() -> dict[str, set[str]]:
    """The flags of each command, such as "run list"; those before a command's name as those of ""."""
    helps = {"": shown("--help")}
    for command in COMMAND.findall(helps[""].partition("Options:")[0]):
        helps[command] = shown(command, "--help-all" if command == "serve" else "--help")
        for inner in COMMAND.findall(helps[command].partition("Commands:")[2]):
            helps[f"{command} {inner}"] = shown(command, inner, "--help")
    return {command: set(FLAG.findall(text)) for command, text in helps.items()}


def shown(*arguments: str) -> str:
    """What a command line prints."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed), suppress(SystemExit):
        patch.setenv("COLUMNS", "200")
        main(arguments)
    return printed.getvalue()


def words(page: Path) -> list[str]:
    return CODE.findall(outside_of_blocks(page))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_and_flags_exist(page: Path, flags: dict[str, set[str]]) -> None:
    known = set[str]().union(*flags.values()) | FOREIGN
    for text in words(page):
        program, *arguments = shlex.split(text) if text.startswith(("layerserve ", "make ")) else [""]
        if program == "layerserve":
            named, inner = [*(word for word in arguments if word.isalpha() and word.islower()), "", ""][:2]
            if any(one.startswith(f"{named} ") for one in flags):
                named = f"{named} {inner}".rstrip()
            assert named in flags, text
            known_here = flags[named] | flags[""]
            assert set(FLAG.findall(text)) <= known_here, text
        elif program == "make":
            check_make(arguments, [])
        elif text.startswith("--"):
            assert set(FLAG.findall(text)) <= known, text


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_variables_methods_and_metrics_exist(page: Path) -> None:
    metrics = set(re.findall(r"^\| `(\w+)`", (ROOT / "docs" / "metrics.md").read_text("utf-8"), re.MULTILINE))
    for text in words(page):
        if match := re.match(r"LAYERSERVE_(?!SOME_SETTING)[A-Z_]+", text):
            assert not unknown({match[0]: "x"}, variables()), text
        elif match := re.match(r"(?:await )?client\.(\w+)", text):
            assert all(hasattr(client, match[1]) for client in (Client, AsyncClient)), text
        elif match := re.match(r"layerserve_(?!zoo|server)\w+", text):
            assert match[0].removesuffix("_total") in metrics, text


def test_names_of_classes_and_methods_are_in_the_code() -> None:
    files = [path for folder in ("client", "server", "proto") for path in (ROOT / folder).rglob("*")]
    code = "\n".join(path.read_text("utf-8") for path in files if path.suffix in (".py", ".proto"))
    known = {*NAME.findall(code), *FOREIGN}
    named = {name: name_of(page) for page in PAGES for text in words(page) for name in NAME.findall(text)}
    assert {name: page for name, page in named.items() if name not in known} == {}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target in LINK.findall(outside_of_blocks(page)):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = unquote(target).partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor:
            headings = HEADING.findall(file.read_text("utf-8"))
            assert anchor in {re.sub(r"[^\w -]", "", name.lower()).replace(" ", "-") for name in headings}, target


def test_every_file_of_the_state_folder_is_in_the_page() -> None:
    code = "\n".join(path.read_text("utf-8") for path in (ROOT / "server" / "layerserve_server").rglob("*.py"))
    section = (ROOT / "docs" / "operating.md").read_text("utf-8").partition("## State folder")[2].partition("## ")[0]
    names = {name for row in re.findall(r"^\| (`.*?`) \|", section, re.MULTILINE) for name in CODE.findall(row)}
    assert names == {*re.findall(r'state_folder / "([\w.]+)"', code), audit.FILE}


def test_every_page_is_in_the_list_of_pages() -> None:
    docs = ROOT / "docs"
    listed = LINK.findall((docs / "README.md").read_text("utf-8"))
    pages = sorted(page.relative_to(docs).as_posix() for page in docs.rglob("*.md"))
    assert sorted({"README.md", *listed}) == pages
    assert len(set(listed)) == len(listed)


def test_figures_of_the_comparison_are_those_of_the_benchmarks() -> None:
    _, _, speed = (ROOT / "docs" / "comparison.md").read_text("utf-8").partition("## Speed")
    figures = re.findall(r"\b\d{1,3}(?:,\d{3})*\b", "".join(re.findall(r"^\|.*", speed, re.MULTILINE)[2:]))
    assert len(figures) >= 15
    measured = (ROOT / "lab" / "benchmarks" / "README.md").read_text("utf-8")
    assert [figure for figure in figures if f" {figure} (" not in measured] == []
