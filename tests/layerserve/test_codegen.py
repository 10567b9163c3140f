"""What `layerserve codegen` writes: for any names, Python that is only what it should be, and that works."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layerserve import AsyncClient, Client, InvalidArgument, ModelMismatch, TensorSpec
from layerserve.cli import main
from layerserve.codegen import module_source
from layerserve.codegen.identifiers import class_name, variables

X = TensorSpec("x", (None, 3), "float32")
Y = TensorSpec("y", (None, 3), "float32")

#: Names that would be code, end a string or docstring, or clash with one another or with names of the module.
HOSTILE = [
    '"""; import os; os._exit(3); """',
    "'\"\\",
    '"',
    "\\",
    "\\N{BULLET}",
    "a\nimport os\nos._exit(3)",
    "# -*- coding: utf-7 -*-",
    "{0}",
    "%s",
    "\0",
    "\ud800",
    "\u202eevil",
    "ﬁ",
    "fi",
    "größe",
    "入力",
    "",
    " ",
    "class",
    "None",
    "self",
    "cls",
    "timeout",
    "prediction",
    "read",
    "np",
    "npt",
    "contract",
    "_private",
    "__class__",
    "__init__",
    "1",
    "a.b/c:0",
    "a b",
    "A-B",
    "a_b",
    "InputLayer",
    "input_layer",
    "x" * 500,
    "print",
    "list",
    "type",
]


def loaded(source: str) -> ModuleType:
    module = ModuleType("generated_model")
    sys.modules[module.__name__] = module  # dataclasses look the module up
    exec(compile(source, "generated_model.py", "exec", dont_inherit=True), module.__dict__)
    return module


def hostile_specs() -> list[TensorSpec]:
    return [TensorSpec(name, (None, 3), "float32") for name in HOSTILE]


def structure(source: str) -> list[str]:
    """The kinds of all statements, and all names that are called."""
    tree = ast.parse(source)
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return [type(node).__name__ for node in ast.walk(tree) if isinstance(node, ast.stmt)] + sorted(called)


def test_names_are_never_code():
    """The module has the same statements as one with plain names."""
    plain = [TensorSpec(f"t{number}", (None, 3), "float32") for number in range(len(HOSTILE))]
    expected = structure(module_source("plain", plain, plain))
    for model in HOSTILE[:20]:
        found = structure(module_source(model, hostile_specs(), hostile_specs(), "Plain"))
        assert found == expected
    assert module_source(HOSTILE[0], hostile_specs(), hostile_specs()).isascii()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(), min_size=1, max_size=4), st.text())
def test_any_text_is_only_a_name(names, model):
    specs = [TensorSpec(name, (None, 3), "float32") for name in names]
    plain = [TensorSpec(f"t{number}", (None, 3), "float32") for number in range(len(names))]
    source = module_source(model, specs, specs, "Plain")
    assert structure(source) == structure(module_source("plain", plain, plain, "Plain"))
    module = loaded(source)
    assert [spec.name for spec in module.CONTRACT.inputs] == names
    assert module.CONTRACT.model == model


@settings(deadline=None)
@given(st.lists(st.text(), max_size=8), st.text())
def test_identifiers_are_valid_and_different(names, model):
    found = variables(names, "input", ("self", "timeout"))
    assert len(set(found)) == len(names) == len(found)
    assert all(name.isidentifier() and name.isascii() and name == name.lower() for name in found)
    assert not {"self", "timeout", "class", "none"} & set(found) - {"none"}
    assert class_name(model, ("Contract",)).isidentifier()


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["image", "Image 1", "InputLayer"], ["image", "image_1", "input_layer"]),
        (["größe", "ﬁ", "入力"], ["gro_e", "fi", "input_3"]),
        (["a b", "a-b", "a_b", "a_b_2"], ["a_b", "a_b_2", "a_b_3", "a_b_2_2"]),
        (["class", "self", "1", "_x", ""], ["class_", "self_", "input_1", "x", "input_5"]),
    ],
)
def test_identifiers_stay_close_to_the_names(names, expected):
    assert variables(names, "input", ("self",)) == expected


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("mnist", "Mnist"),
        ("text classifier-v2", "TextClassifierV2"),
        ("2d", "Model2d"),
        ("", "Model"),
        ("None", "NoneModel"),
        ("contract", "ContractModel"),
    ],
)
def test_the_class_is_called_as_the_model(model, expected):
    assert class_name(model, ("Contract",)) == expected


@pytest.mark.parametrize("name", ["a b", "class", "TypedModel", "np", ""])
def test_the_name_of_the_class_is_an_identifier(name):
    with pytest.raises(InvalidArgument, match="class: got"):
        module_source("m", [X], [Y], name)


def test_checkers_find_no_fault(tmp_path):
    """Ruff, also with rules that are off by default, its formatter, and mypy in its strict mode."""
    ordinary = [TensorSpec("Title 1", (None, None, 64), "string"), TensorSpec("id", (None,), "int64")]
    outputs = [TensorSpec(dtype, (None,), dtype) for dtype in ("bool", "bfloat16", "string", "complex64", "uint8")]
    (tmp_path / "ordinary.py").write_text(module_source("text classifier", ordinary, outputs))
    (tmp_path / "hostile.py").write_text(module_source(HOSTILE[0], hostile_specs(), hostile_specs()))
    (tmp_path / "user.py").write_text(
        "import ordinary\nprint(ordinary.TextClassifier('h:1').predict([['a']], 1).bool.dtype)\n"
    )

    def run(*command: str) -> None:
        done = subprocess.run([sys.executable, "-m", *command], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    check = ("ruff", "check", "--isolated", "--no-cache", "--select=E,F,W,I,UP,B,C4,SIM,RUF,N,D2,D3,D4")
    run(*check, "--ignore=D203,D212,D213,D413", "ordinary.py")
    run(*check, "--ignore=D203,D212,D213,D413,D301,E501", "hostile.py")
    run("ruff", "format", "--isolated", "--no-cache", "--check", "ordinary.py")
    run("mypy", "--strict", "--no-incremental", "--config-file=", ".")


def test_a_class_predicts(server):
    module = loaded(module_source("double", [X], [Y]))
    assert module.Double.__doc__.startswith("The model 'double', ")
    with module.Double(server.address) as model:
        outputs = model.predict([[1, 2, 3]])
        assert outputs.y.tolist() == model.predict(x=[[1, 2, 3]], timeout=20).y.tolist() == [[2, 4, 6]]
    assert [method for method, _ in server.calls] == ["GetModel", "Predict", "Predict"]


def test_a_class_predicts_on_asyncio(server):
    module = loaded(module_source("double", [X], [Y]))

    async def run():
        async with module.AsyncDouble(server.address) as model:
            await model.check()
            return (await model.predict([[1, 2, 3]])).y.tolist()

    assert asyncio.run(run()) == [[2, 4, 6]]


def test_inputs_and_outputs_of_any_name_arrive_where_they_belong(server):
    # A message holds no surrogates, and in it an input without a name is the only one.
    specs = [spec for spec in hostile_specs() if spec.name not in ("\ud800", "")]
    server.add_model("hostile", lambda a: {name: value + 1 for name, value in a.items()}, specs, specs)
    module = loaded(module_source("hostile", specs, specs))
    with module.Hostile(server.address) as model:
        outputs = model.predict(*([[number] * 3] for number in range(len(specs))))
        values = [array.tolist() for array in vars(outputs).values()]
        assert values == [[[number + 1.0] * 3] for number in range(len(specs))]
        named = {name: [[0, 0, 0]] for name in inspect.signature(model.predict).parameters if name != "timeout"}
        assert len(vars(model.predict(**named))) == len(specs)


def test_a_client_of_ones_own_stays_open(server):
    module = loaded(module_source("double", [X], [Y]))
    with Client(server.address) as client:
        with module.Double(client, version=1) as model:
            model.check()
        assert client.models("double")
    with pytest.raises(InvalidArgument, match="server: got AsyncClient, expected an address or a Client"):
        module.Double(AsyncClient(server.address))


@pytest.mark.parametrize(
    ("inputs", "outputs", "text"),
    [
        ([TensorSpec("x", (None, 4), "float32")], [Y], r"input 'x': got \(None, 4\) float32, expected \(None, 3\)"),
        ([TensorSpec("z", (None, 3), "float32")], [Y], "input 'x': got none, .*; input 'z': got .*, expected none"),
        ([X, TensorSpec("z", (None, 3), "float32")], [Y], r"input 'z': got \(None, 3\) float32, expected none"),
        ([X], [TensorSpec("y", (None, 3), "int32")], r"output 'y': got \(None, 3\) int32, expected"),
        ([X], [TensorSpec("z", (None, 3), "float32")], "output 'y': got none, expected"),
    ],
)
def test_another_model_is_refused_with_the_differences(server, inputs, outputs, text):
    server.add_model("m", lambda a: {}, inputs, outputs)
    module = loaded(module_source("m", [X], [Y]))
    with module.M(server.address) as model:
        for call in (model.check, lambda: model.predict([[1, 2, 3]])):
            with pytest.raises(ModelMismatch, match=rf"model 'm' version 1: {text}.*layerserve codegen m"):
                call()
    assert "Predict" not in [method for method, _ in server.calls]


def test_further_outputs_and_another_order_are_no_change(server):
    z = TensorSpec("z", (None, 3), "float32")
    server.add_model("m", lambda a: {"z": a["x"], "y": 2 * a["x"]}, [z, X], [z, Y])
    module = loaded(module_source("m", [X, z], [Y]))
    with module.M(server.address) as model:
        assert model.predict([[1, 2, 3]], [[0, 0, 0]]).y.tolist() == [[2, 4, 6]]


@pytest.mark.parametrize(
    ("function", "outputs"),
    [
        (lambda a: {"y": a["x"].astype(np.int32)}, [TensorSpec("y", (None, 3), "int32")]),
        (lambda a: {"y": a["x"][:, :2]}, [TensorSpec("y", (None, 2), "float32")]),
        (lambda a: {"z": a["x"]}, [TensorSpec("z", (None, 3), "float32")]),
    ],
)
def test_a_version_that_comes_later_is_checked_too(server, function, outputs):
    module = loaded(module_source("double", [X], [Y]))
    with module.Double(server.address) as model:
        model.predict([[1, 2, 3]])
        server.add_model("double", lambda a: {"y": a["x"]}, [X], [Y], version=2)
        assert model.predict([[1, 2, 3]]).y.tolist() == [[1, 2, 3]]
        server.add_model("double", function, [X], outputs, version=3)
        with pytest.raises(ModelMismatch, match="model 'double' version 3: output 'y'"):
            model.predict([[1, 2, 3]])


def test_a_version_with_other_inputs_that_comes_later_is_refused(server):
    module = loaded(module_source("double", [X], [Y]))
    with module.Double(server.address) as model:
        model.predict([[1, 2, 3]])
        server.add_model("double", lambda a: {"y": a["z"]}, [TensorSpec("z", (None, 3), "float32")], [Y], version=2)
        with pytest.raises(ModelMismatch, match="version 2: input 'x'"):
            model.predict([[1, 2, 3]])


def test_bad_rows_are_no_other_model(server):
    module = loaded(module_source("double", [X], [Y]))
    with module.Double(server.address) as model:
        model.predict([[1, 2, 3]])
        with pytest.raises(InvalidArgument) as caught:
            model.predict([["a", "b", "c"]])
        assert not isinstance(caught.value, ModelMismatch)


@pytest.fixture
def cli(server, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("LAYERSERVE_ADDRESS", server.address)
    monkeypatch.chdir(tmp_path)

    def run(line):
        status = main(line.split())
        shown = capsys.readouterr()
        return status, shown.out, shown.err

    return run


def test_the_command_writes_the_class_and_shows_what_has_changed(cli, server, tmp_path):
    source = cli("codegen two")[1]
    assert source == module_source(
        "two",
        [TensorSpec("left", (None, 2), "float32"), TensorSpec("right", (None, 2), "int32")],
        [TensorSpec("sum", (None, 2), "float32"), TensorSpec("ids", (None, 2), "int64")],
    )
    assert cli("codegen two --output two.py") == (0, "written to two.py\n", "")
    assert (tmp_path / "two.py").read_text() == source
    assert cli("codegen two --output two.py --check") == (0, "", "")
    server.add_model("two", lambda a: {}, [X], [TensorSpec("sum", (None, 2), "float32")], version=2)
    status, out, _ = cli("codegen two --output two.py --check")
    assert status == 1
    assert '-        TensorSpec("left", (None, 2), "float32"),\n' in out
    assert (tmp_path / "two.py").read_text() == source
    assert cli("codegen two --version 1 --output two.py --check")[0] == 0
    assert "class Sums(TypedModel):" in cli("codegen two --class Sums")[1]


def test_a_new_version_of_the_same_model_changes_nothing(cli, server):
    before = cli("codegen double")[1]
    server.add_model("double", lambda a: {}, [X], [Y], version=7)
    assert cli("codegen double")[1] == before


def test_a_model_that_is_not_loaded_is_loaded(cli, server):
    server.add_model("lazy", lambda a: {}, [X], [Y], state="available")
    assert 'TensorSpec("x", (None, 3), "float32")' in cli("codegen lazy")[1]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("codegen nope", "unknown model 'nope'"),
        ("codegen broken", "file is truncated"),
        ("codegen double --check", "--check: got it without --output"),
        ("codegen double --class 1", "class: got '1', expected an identifier"),
        ("codegen double --output no/folder/file.py", "no/folder/file.py: No such file or directory"),
    ],
)
def test_what_can_not_be_written_is_one_line(cli, line, text):
    status, out, err = cli(line)
    assert (status, out) == (1, "")
    assert text in err
    assert err.count("\n") == 1


def test_source_is_the_same_each_time():
    program = (
        "import sys, json; from layerserve import TensorSpec; from layerserve.codegen import module_source\n"
        "specs = [TensorSpec(name, (None, 3), 'float32') for name in json.loads(sys.argv[1])]\n"
        "sys.stdout.write(module_source('m', specs, specs))"
    )
    names = json.dumps([name for name in HOSTILE if name != "\ud800"])
    sources = {
        subprocess.run(
            [sys.executable, "-c", program, names], capture_output=True, text=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in "12"
    }
    assert len(sources) == 1
