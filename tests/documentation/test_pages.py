"""Every block of README.md and docs/ runs, page by page in order, against one server; or is listed, with the reason."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import layergraph
import numpy as np
import pyarrow
import pytest
import trustme
from authorities import Authority
from doc_blocks import PAGES, ROOT, Block, blocks_of, name_of, outside_of_blocks
from doc_python import execute
from doc_shell import CHECKED, Shell, check_syntax, lines_of
from layergraph import layers, plugins
from layerserve import Client
from layerserve.cli import main
from layerserve_server.access.tokens_file import parse_tokens
from layerserve_server.app import App
from layerserve_server.extensions.installed import VERIFIERS, Settings, model_settings
from layerserve_server.repository.model_settings import parse_settings
from PIL import Image
from pyarrow import parquet
from shared_jobs import SharedJobs, used

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: First lines of blocks of Python that run only where a package is installed. Elsewhere they are parsed.
PEERS = {
    "import tritonclient.grpc as triton": "tritonclient",
    "import grpc\nimport tensorflow as tf": "tensorflow_serving",
    "import ray": "ray",
    "from pyspark": "pyspark",
}
#: Programs that these packages need.
PROGRAMS = {"pyspark": "java"}
#: Rows of a table.
RIDES = "31,Bonn,7.5\n62,Oslo,9\n" * 4
#: Features of `images`, where they aren't the 64 of the small dense network.
FEATURES = {"docs/engine.md": 784}
#: First lines of blocks of text that are no commands.
LISTINGS = {
    "backend replicas",  # in tests/deploy/test_proxy.py
    "my_classifier/1/config.json            the backbone: its class and hyperparameters",
    "FOLDER/NAME/VERSION/model.keras    a version; other layouts are listed in Serving (serving.md#the-repository)",
}
#: Language of a block -> the program in `examples` that it shows. `make -C lab languages` runs them.
EXAMPLES = {"go": "go/main.go", "java": "java/Predict.java", "typescript": "typescript/predict.ts"}
#: What stands for names in commands of the running text.
PLACEHOLDERS = {
    "FILE": "model.keras",
    "MODEL_FILE": "model.keras",
    "FOLDER": "models",
    "MODEL": "spare",
    "LABEL": "trial",
    "VERSION": "2",
    "[VERSION]": "2",
    "[PERCENT]": "5%",
}
#: Commands of the running text that aren't run here: they take minutes, or run in tests/layergraph/test_golden.py.
SLOW = {"python deploy/make_golden.py MODEL_FILE golden.npz"}
#: What has to be done before commands of the running text.
BEFORE = {
    "layerserve rollback MODEL [VERSION]": "layerserve load MODEL",
    "layerserve canary MODEL [PERCENT]": "layerserve label MODEL canary 3",
    "layerserve remove MODEL VERSION": "layerserve label MODEL LABEL --remove",
    "layerserve remove MODEL --all": "layerserve unload MODEL",
}
OURS = ("layerserve", "layergraph", "layerserve_server", "layerserve_zoo")
#: A command with arguments in the running text. Without them it is the name of a command, also of one of `run`.
COMMAND = re.compile(r"`((?:layerserve (?!run [a-z]+`)[a-z]+|python|curl) [^`\n]+)`")
NUMBER = re.compile(r"\d+(,\d{3})*(\.\d+)?(e-?\d+)?")


class Place:
    """The running server, and what blocks use without making it: files in a folder, and names."""

    def __init__(self, app: App, folder: Path, client: Client) -> None:
        self.app, self.folder, self.client = app, folder, client
        random = np.random.default_rng(0)
        self.names = {
            "client": client,
            "address": "localhost:8500",
            "images": images(64),
            "labels": np.eye(10, dtype="float32")[random.integers(10, size=8)],
            "titles": random.integers(1000, size=(3, 5)).astype("int32"),
            "bodies": random.integers(1000, size=(3, 7)).astype("int32"),
            "samples": random.random((2, 20, 3), "float32"),
            "fetch_token": lambda: "made",
        }

    def moved(self, text: str) -> str:
        """Text with the addresses of the server, and with paths of the test's folder."""
        app = self.app
        # Triton's ports, too.
        ports = {8500: app.grpc_port, 8501: app.http_port, 8002: app.metrics_port}
        ports |= {8001: app.grpc_port, 8000: app.http_port}
        for before, port in ports.items():
            text = text.replace(f"localhost:{before}", f"127.0.0.1:{port}")
        return text.replace("/var/run/secrets/layerserve", str(self.folder / "secrets"))


def images(features: int) -> np.ndarray:
    return np.random.default_rng(0).random((8, features), "float32")


@pytest.fixture(scope="module", name="place")
def _place(tmp_path_factory: pytest.TempPathFactory, jobs: SharedJobs) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("documentation")
    models, data = folder / "models", folder / "data"
    data.mkdir()
    np.save(data / "images.npy", images(64))
    np.save(data / "labels.npy", np.eye(10, dtype="float32")[:8])
    assert main(["zoo", "build", "--small", "--to", str(models), "dense", "layer_node"]) == 0
    whole = (models / "dense" / "1" / "model.keras").read_bytes()
    for name in ("mnist", "spare"):
        for version in "123":
            (models / name / version).mkdir(parents=True)
            (models / name / version / "model.keras").write_bytes(whole)
    (models / "dense" / "labels.json").write_text('{"stable": 1}')
    (models / "tickets" / "1").mkdir(parents=True)
    tickets().save(models / "tickets" / "1" / "model.keras")
    (models / "rides" / "1").mkdir(parents=True)
    rides().save(models / "rides" / "1" / "model.keras")
    (models / "cats" / "1").mkdir(parents=True)
    cats().save(models / "cats" / "1" / "model.keras")
    (models / "cats" / "layerserve.toml").write_text('[inputs.image]\ndecode = "image"\n')
    (models / "photos" / "1").mkdir(parents=True)
    photos().save(models / "photos" / "1" / "model.keras")
    (models / "sensor" / "1").mkdir(parents=True)
    sensor().save(models / "sensor" / "1" / "model.keras")
    (models / "sensor" / "layerserve.toml").write_text("[sequences]\n")
    (data / "rides.csv").write_text("age,city,price\n" + RIDES)
    (data / "days").mkdir()
    for day, (age, city, price) in enumerate(line.split(",") for line in RIDES.split()):
        columns = {"age": [float(age)], "city": [city], "price": [float(price)]}
        parquet.write_table(pyarrow.table(columns), data / "days" / f"{day}.parquet")
    (data / "renamed.csv").write_text('"Age, in years",City,Price\n,Bonn,1\n' + RIDES)
    write_files(folder, whole)
    settings = Settings(
        path=models,
        host="127.0.0.1",
        grpc_port=0,
        metrics_port=0,
        http_port=0,
        ui=True,
        poll_seconds=0.1,
        drain_seconds=0,
        training_nice=0,
        warm_training=True,
        data_root=data,
    )
    with used(jobs), App(settings) as app, Client(f"127.0.0.1:{app.grpc_port}", timeout=60) as client:
        yield Place(app, folder, client)


def tickets() -> layergraph.Model:
    """Words of a title and a body -> a priority and a department."""
    title, body = (layergraph.Input((None,), dtype="int32", name=name) for name in ("title", "body"))
    words = layers.Embedding(1000, 4)
    both = layers.Concatenate()([layers.GlobalAveragePooling1D()(words(text)) for text in (title, body)])
    outputs = [layers.Dense(n, name=name)(both) for n, name in ((1, "priority"), (4, "department"))]
    return layergraph.Model([title, body], outputs)


def rides() -> layergraph.Model:
    """An age and a city -> a price."""
    age, city = layergraph.Input((1,), name="age"), layergraph.Input((1,), dtype="string", name="city")
    cities = layers.StringLookup(vocabulary=["Bonn", "Oslo"], output_mode="one_hot")(city)
    model = layergraph.Model([age, city], layers.Dense(1, name="price")(layers.Concatenate()([age, cities])))
    model.compile("adam", "mse")
    return model


def cats() -> layergraph.Model:
    """An image -> its mean color."""
    image = layergraph.Input((8, 8, 3), name="image")
    return layergraph.Model(image, layers.GlobalAveragePooling2D(name="color")(image))


def photos() -> layergraph.Model:
    """An image -> the probabilities of two classes."""
    image = layergraph.Input((8, 8, 3), name="image")
    model = layergraph.Model(image, layers.Dense(2, "softmax")(layers.GlobalAveragePooling2D()(image)))
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def sensor() -> layergraph.Model:
    """Readings -> a value for each timestep."""
    x = layergraph.Input((None, 3), name="x")
    return layergraph.Model(x, layers.Dense(1)(layers.LSTM(4, return_sequences=True)(x)))


def sentences() -> layergraph.Model:
    """Words -> the last state of a recurrent layer, and one for each step."""
    words = layergraph.Input((None,), dtype="int32", name="words")
    states = layers.GRU(3, return_sequences=True)(layers.Embedding(100, 4)(words))
    steps = layers.Dense(2, name="steps")(states)
    return layergraph.Model(words, [layers.Dense(3, name="last")(layers.GRU(3)(states)), steps])


def write_files(folder: Path, model: bytes) -> None:
    """The files that the pages name."""
    given = folder / "given"
    given.mkdir()
    (given / "model.keras").write_bytes(model)
    sentences().save(given / "model.h5")
    (given / "rides.csv").write_text("age,city,price\n" + RIDES)
    Image.new("RGB", (9, 9), (1, 2, 3)).save(given / "cat.png")
    for name in ("cat", "dog"):
        (given / "photos" / name).mkdir(parents=True)
        shutil.copy(given / "cat.png", given / "photos" / name)
    encoded = [(given / "cat.png").read_bytes()] * 2
    parquet.write_table(pyarrow.table({"image": encoded, "label": [0, 1]}), given / "photos.parquet")
    authority = Authority(given)
    (given / "clients-ca.pem").write_bytes(authority.ca.cert_pem.bytes())
    client = authority.ca.issue_cert("client", key_type=trustme.KeyType.ECDSA)
    client.cert_chain_pems[0].write_to_path(given / "client.pem")
    client.private_key_pem.write_to_path(given / "client.key")
    (given / "tokens.toml").write_text("")
    (folder / "secrets").mkdir()
    (folder / "secrets" / "token").write_text("made")


@pytest.fixture(name="shell")
def _shell(
    place: Place,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> Iterator[Shell]:
    """In a folder with the files, of which Python imports modules. Tutorials have the server's models in it."""
    shutil.copytree(place.folder / "given", tmp_path, dirs_exist_ok=True)
    models = tmp_path / "models"
    if re.search(r"docs/(tutorials|start)/[a-z]", request.node.name):
        models.symlink_to(place.folder / "models")
    else:
        models.mkdir()
    for table in ("_classes", "_lambdas", "_activations"):
        monkeypatch.setattr(plugins, table, {})
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    # What engines take is shown, and not relied on.
    monkeypatch.setattr("layergraph.execution.tuning.timing._ENOUGH_TURNS", 3)
    monkeypatch.setattr("layergraph.execution.tuning.timing._ENOUGH_SECONDS", 0.0)
    # Sweeps of pages end after a second or two.
    for name in ("commands.LOOK_SECONDS", "sweep.LOOK_SECONDS", "sweep.MAX_LOOK_SECONDS"):
        monkeypatch.setattr(f"layerserve.sweeps.{name}", 0.05)
    monkeypatch.setenv("LAYERSERVE_ADDRESS", f"127.0.0.1:{place.app.grpc_port}")
    before = set(sys.modules)
    yield Shell(place.moved, capsys)
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) == str(tmp_path / f"{name}.py"):
            del sys.modules[name]


# Pages pin models, which others train.
@pytest.mark.filterwarnings("ignore::layerserve.VersionWarning")
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_blocks_of_a_page_run(page: Path, place: Place, shell: Shell, tmp_path: Path) -> None:
    names: dict[str, object] = {"__name__": "documentation"}
    for block in blocks_of(page):
        run_block(block, names, place, shell, tmp_path)


def run_block(block: Block, names: dict[str, object], place: Place, shell: Shell, folder: Path) -> None:
    """Runs a block. `names` are those of the page's Python. Raises what Python raises, or AssertionError."""
    if block.language == "python":
        run_python(block, names, place, folder)
    elif block.language == "sh":
        check_syntax(block.text)
        shell.run(block.text)
    elif block.language == "console":
        for line, expected in entered(block):
            assert without_numbers(shell.run(line)) == without_numbers(expected), block.place
    elif block.language == "toml" and block.first == "# pyproject.toml":
        tomllib.loads(block.text)
    elif block.language == "toml":
        is_tokens = re.search(r"^\[+(tokens|certificates|jwt)\]", block.text, re.MULTILINE)
        _ = (
            parse_tokens(block.text, block.place, VERIFIERS)
            if is_tokens
            else parse_settings(block.text.encode(), block.place, model_settings())
        )
    elif block.language in EXAMPLES:
        file = ROOT / "examples" / EXAMPLES[block.language]
        assert block.text == file.read_text("utf-8"), f"{block.place}: differs from {file}"
    elif block.language == "json":
        check_audit(json.loads(block.text), place)
    else:
        assert block.language == "text", f"{block.place}: got language '{block.language}'"
        assert block.first in LISTINGS, f"{block.place}: neither run nor in LISTINGS"


@pytest.mark.parametrize(
    ("language", "text", "problem"),
    [
        ("", "layerserve models\n", "got language ''"),
        ("yaml", "a: 1\n", "got language 'yaml'"),
        ("text", "layerserve models\n", "neither run nor"),
        ("sh", "layerserve models |\n", "syntax error"),
        ("console", "$ layerserve run list --json\nnone\n", "docs/new.md:7"),
        ("console", "layerserve run list\n", "docs/new.md:7"),
        ("toml", "latest_version = 2\n", "latest_version"),
        ("toml", '[[tokens]]\nname = "ci"\nsha = "0"\n', "sha"),
        ("go", "package main\n", "differs from"),
        ("json", '{"action": "roll back", "whom": "ci"}', "whom"),
        ("python", "client.predicts('dense', images)\n", "predicts"),
        ("python", "print(2)  # 3\n", "docs/new.md:7: printed '2', expected '3'"),
        ("python", "from layerserve import Clients\n", "Clients"),
        ("python", "import tritonclient.grpc as triton\nfrom layerserve import Clients\n", "Clients"),
    ],
)
def test_a_block_that_is_wrong_is_found(
    language: str, text: str, problem: str, place: Place, shell: Shell, tmp_path: Path
) -> None:
    block = Block("docs/new.md", 7, language, text)
    with pytest.raises(Exception, match=re.escape(problem)):
        run_block(block, {}, place, shell, tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_commands_in_the_text_of_a_page_run(page: Path, shell: Shell) -> None:
    for text in COMMAND.findall(outside_of_blocks(page)):
        if text in SLOW:
            assert (ROOT / text.split()[1]).is_file()
            continue
        for line in (BEFORE.get(text, ""), text):
            shell.run(" ".join(PLACEHOLDERS.get(word, word) for word in line.split(" ")))


def test_what_is_not_run_is_in_a_page() -> None:
    texts = {text for page in PAGES for text in COMMAND.findall(outside_of_blocks(page))}
    assert SLOW | set(BEFORE) <= texts
    blocks = [block for page in PAGES for block in blocks_of(page)]
    assert {block.first for block in blocks if block.language == "text"} == LISTINGS
    assert all(any(block.text.startswith(start) for block in blocks) for start in PEERS)
    words = [words for block in blocks if block.language == "sh" for words in lines_of(block.text)]
    assert all(any(program in line for line in words) for program in CHECKED)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("layerserve modles", "status 2"),
        ("layerserve predict absent x.npy", "status"),
        ("layerserve serve models --prot 1", "status 2"),
        ("layerserve zoo list && layerserve wait absent --timeout 0.1", "status 1"),
        ("python -c 'raise SystemExit(3)'", "raise"),
        ("rm models", "neither run nor"),
        ("layerserve models > file", "isn't known"),
        ("pip install '.[sever]'", "sever"),
        ("pip install 'layerserve[server]'", "the index"),
        ("make tests", "make tests"),
    ],
)
def test_a_line_that_fails_is_found(line: str, problem: str, shell: Shell) -> None:
    with pytest.raises(AssertionError, match=re.escape(problem)):
        shell.run(line)


def test_a_pipe_gives_the_output_of_one_command_to_the_next(shell: Shell) -> None:
    printed = shell.run("python -c 'print([[0.5] * 64])' | layerserve predict dense --json")
    assert np.shape(json.loads(printed)["outputs"]["dense_2"]) == (1, 10)


def run_python(block: Block, names: dict[str, object], place: Place, folder: Path) -> None:
    tree = ast.parse(block.text, block.place)
    if match := re.fullmatch(r"# (\w+\.py)", block.first):
        (folder / match[1]).write_text(block.text)
        return
    for start, peer in PEERS.items():
        if block.text.startswith(start) and lacks(peer):
            check_imports(tree)
            return
    names.update(place.names)
    if block.page in FEATURES:
        names["images"] = images(FEATURES[block.page])
    execute(place.moved(block.text), ROOT / block.page, block.line, names)


def lacks(peer: str) -> bool:
    """Whether a package, or the program that it needs, isn't installed."""
    program = PROGRAMS.get(peer)
    return importlib.util.find_spec(peer) is None or (program is not None and shutil.which(program) is None)


def check_audit(entry: dict[str, object], place: Place) -> None:
    """A call of the action is audited with the keys of the entry."""
    assert entry["action"] == "roll back"
    place.client.pin("mnist", 3)
    place.client.roll_back("mnist")
    lines = (place.app.settings.state_folder / "audit.jsonl").read_text("utf-8").splitlines()
    assert list(json.loads(lines[-1])) == list(entry)


def check_imports(tree: ast.Module) -> None:
    """What a block imports from our packages exists."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in OURS:
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


def entered(block: Block) -> list[tuple[str, str]]:
    """The lines after `$ `, each with what is printed."""
    parts = re.split(r"^\$ ", block.text, flags=re.MULTILINE)
    assert parts[0] == "", block.place
    found = [part.partition("\n") for part in parts[1:]]
    return [(line, shown) for line, _, shown in found]


def without_numbers(text: str) -> str:
    return NUMBER.sub("0", text).rstrip()
