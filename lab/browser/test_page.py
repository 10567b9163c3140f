"""The page in a real browser: what a person sees, and what hostile names do."""

from __future__ import annotations

import io
import json
import re
import shlex
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from browser import browser, chromium
from google.protobuf import json_format
from layergraph import Input, Model, layers
from layerserve import Client
from layerserve_server.app import App
from layerserve_server.extensions.installed import Settings
from layerserve_server.protocols.inference.inference_pb2 import ModelInferRequest, ModelInferResponse
from PIL import Image
from shared_jobs import SharedJobs, used

PROGRAM = chromium()
#: A layer's name that would run a script if the page didn't escape it.
HOSTILE = "<img src=x onerror=hacked=1>\"'&{{7*7}}"
#: One that would be a form of the page, where a reply isn't HTML but is taken for it.
FORM = '<form data-post="DeleteVersion"><button>Search'
SECONDS = 20_000  # milliseconds, as Playwright counts


CLASSES = ("cat", "dog", "a horse of a name that is too long for one line of a phone")


def photos() -> Model:
    """Images with pixels up to 255 to probabilities of named classes."""
    image = Input((6, 6, 3), name="image")
    flat = layers.GlobalAveragePooling2D()(layers.Rescaling(1 / 255)(image))
    return Model(image, layers.Dense(3, activation="softmax", name="classes")(flat), name="photos")


def picture(seed: int) -> Model:
    """Images to classes, with a shared layer and a nested model."""
    inner_input = Input((4,), name="inner_input")
    inner = Model(inner_input, layers.Dense(4, name="inner_dense")(inner_input), name="inner")
    image = Input((6, 6, 3), name="image")
    flat = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, name=HOSTILE)(image))
    shared = layers.Dense(4, activation="tanh", name="shared")
    out = layers.Dense(3, activation="softmax", name="classes")(inner(shared(shared(flat))))
    model = Model(image, out, name="picture")
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


@pytest.fixture(scope="module", name="app")
def _app(tmp_path_factory: pytest.TempPathFactory, jobs: SharedJobs) -> Iterator[App]:
    folder = tmp_path_factory.mktemp("models")
    for version in (1, 2):
        (folder / "picture" / str(version)).mkdir(parents=True)
        picture(version).save(folder / "picture" / str(version) / "model.keras")
    words = Input((1,), dtype="string", name="words")
    (folder / "words" / "1").mkdir(parents=True)
    found = layers.StringLookup(vocabulary=["sun", "rain"])(words)
    Model(words, found).save(folder / "words" / "1" / "model.keras")
    pair = Input(batch_shape=(2, 3), name="pair")
    (folder / "pairs" / "1").mkdir(parents=True)
    Model(pair, layers.Dense(1, name="scores")(pair)).save(folder / "pairs" / "1" / "model.keras")
    row = Input((3,), name="row")
    (folder / "forms" / "1").mkdir(parents=True)
    Model(row, layers.Dense(1, name=FORM)(row)).save(folder / "forms" / "1" / "model.keras")
    for version in (1, 2, 3):
        (folder / "photos" / str(version)).mkdir(parents=True)
        photos().save(folder / "photos" / str(version) / "model.keras")
    (folder / "photos" / "labels.txt").write_text("\n".join(CLASSES))
    text = 'default_version = 2\ncanary = "5 %"\nclass_labels = { classes = "labels.txt" }\n'
    (folder / "photos" / "layerserve.toml").write_text(text)
    (folder / "photos" / "labels.json").write_text('{"canary": 3}')
    (folder / "broken" / "1").mkdir(parents=True)
    (folder / "broken" / "1" / "model.keras").write_bytes(b"<script>hacked=1</script>")
    settings = Settings(
        path=folder, host="127.0.0.1", grpc_port=0, http_port=0, metrics_port=-1, ui=True, drain_seconds=0,
        tuning_seconds=0, poll_seconds=0.2,
    )  # fmt: skip
    with used(jobs):
        served = App(settings)
    with served as app:

        def begin() -> str:
            with Client(f"127.0.0.1:{app.grpc_port}") as client:
                x, y = np.zeros((32, 6, 6, 3), np.float32), np.zeros(32, np.int32)
                # So many steps that the run outlasts all other tests of this file.
                options = {"version": 1, "epochs": 9999, "batch_size": 1, "publish": False, "description": HOSTILE}
                return client.train("picture", x, y, **options).id

        # The process that trains starts while other tests run.
        with ThreadPoolExecutor(1) as pool:
            app.run = pool.submit(begin)
            yield app


@pytest.fixture(scope="module", name="running")
def _running() -> Iterator[Any]:
    with browser(PROGRAM) as running:
        yield running


@pytest.fixture(name="page")
def _page(running: Any, app: App) -> Iterator[Any]:
    """An open tab; no script of it may fail, and nothing may run that isn't the page's."""
    context = running.new_context()
    page, errors = context.new_page(), []
    page.set_default_timeout(SECONDS)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if "Content Security" in message.text else None)
    page.base = f"http://127.0.0.1:{app.http_port}/ui"
    yield page
    # What is being begun isn't given back yet.
    app.run.result()
    assert errors == []
    assert page.evaluate("typeof hacked") == "undefined"
    context.close()


def show(page: Any, part: str) -> None:
    page.goto(f"{page.base}#{part}")
    page.wait_for_selector("main h1")


def test_models_are_listed_and_a_failed_one_has_its_reason(page: Any) -> None:
    show(page, "models")
    assert page.locator("tbody tr").count() == 6
    assert "neither a Keras zip nor HDF5" in page.locator("tr:has-text('broken') .reason").inner_text()
    page.get_by_label("Name contains").fill("pict")
    page.keyboard.press("Enter")
    page.wait_for_selector("#count:has-text('1 model')")
    page.get_by_role("link", name="picture").press("Enter")
    page.wait_for_selector("h1:has-text('picture')")
    page.wait_for_selector("text=(None, 6, 6, 3)")


def test_the_graph_shows_shared_calls_and_nested_models_and_escapes_names(page: Any) -> None:
    show(page, "graph?name=picture&version=2")
    first = page.locator(".graph").first
    assert first.locator(".call.shared[data-layer=shared]").count() == 2
    assert first.locator(".call.nested").count() == 1
    assert page.locator("h2:has-text('inner')").count() == 1
    assert page.locator(".call text.l1", has_text="<img src=x onerror=hacked").count() == 1
    assert page.locator("main img").count() == 0
    width = float(first.locator("svg").get_attribute("width"))
    first.focus()
    page.keyboard.press("+")
    assert float(first.locator("svg").get_attribute("width")) > width
    page.keyboard.press("1")
    assert float(first.locator("svg").get_attribute("width")) == width
    # A box leads to its tensor.
    first.locator("a:has([data-layer=shared])").nth(1).press("Enter")
    page.wait_for_selector("h1:has-text('Try')")
    assert page.locator("#outputs").input_value() == "shared:1"


def test_a_dropped_image_is_predicted_and_inner_tensors_are_drawn(page: Any, app: App) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    show(page, "try?name=picture&version=2")
    page.evaluate(
        """bytes => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], "p.png", { type: "image/png" }));
            const drop = document.querySelector(".drop");
            drop.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
        }""",
        list(file.getvalue()),
    )
    page.locator("#outputs").fill(f"classes\n{HOSTILE}")
    page.get_by_role("button", name="Predict").click()
    page.wait_for_selector("#answer h2")
    shown = [float(text) for text in page.locator("#answer .output").first.locator("td").all_inner_texts()]
    with Client(f"127.0.0.1:{app.grpc_port}") as client:
        expected = client.predict("picture", pixels[None] / np.float32(255), version=2)
    np.testing.assert_allclose(shown, np.asarray(expected).ravel(), rtol=1e-5)
    drawn = page.locator("#answer .output").nth(1).locator("img")
    assert drawn.count() == 4
    assert drawn.first.evaluate("image => image.complete && image.naturalWidth") == 4


def test_an_output_is_explained_by_the_pixels_of_an_image(page: Any, app: App) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    show(page, "try?name=picture&version=2")
    page.locator("#image-1").set_input_files({"name": "p.png", "mimeType": "image/png", "buffer": file.getvalue()})
    page.get_by_label("Element of the output").fill("1")
    page.get_by_role("button", name="Explain").click()
    page.wait_for_selector("#answer h2:has-text('Explanation by version 2, row 0')")
    with Client(f"127.0.0.1:{app.grpc_port}") as client:
        expected = client.explain("picture", pixels[None] / np.float32(255), 1, version=2)
    shown = [float(text) for text in page.locator("#answer li b").all_inner_texts()]
    of_expected = (expected.outputs, expected.baseline_outputs, expected.convergence_delta)
    np.testing.assert_allclose(shown, np.ravel(of_expected), rtol=1e-3)
    drawn = page.locator("#answer .output img")
    assert drawn.count() == 1
    assert drawn.evaluate("image => image.complete && image.naturalWidth") == 6
    sums = expected.attributions.sum(-1)
    low, high = [float(one) for one in re.findall("is ([-0-9.e]+),", page.locator("#answer .output p").inner_text())]
    np.testing.assert_allclose([low, high], [sums.min(), sums.max()], atol=1e-4)
    # A tensor inside of the graph, whose name may be anything.
    page.get_by_label("Attribute to").fill(HOSTILE)
    page.get_by_role("button", name="Explain").click()
    page.wait_for_selector("#answer h3:has-text('<img src=x onerror=hacked')")
    assert page.locator("#answer .output img").evaluate("image => image.naturalWidth") == 4
    assert page.get_by_role("button", name="Explain").is_enabled()


def test_the_graph_says_which_pixels_it_expects_and_probabilities_are_bars_of_classes(page: Any, app: App) -> None:
    show(page, "try?name=photos")
    assert page.get_by_label("Values from").input_value() == "0,255"
    pixels = np.random.default_rng(1).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    page.locator("#image-1").set_input_files({"name": "p.png", "mimeType": "image/png", "buffer": file.getvalue()})
    page.get_by_role("button", name="Predict").click()
    page.wait_for_selector("#answer h2:has-text('Answer of version 2')")
    with Client(f"127.0.0.1:{app.grpc_port}") as client:
        expected = np.asarray(client.predict("photos", pixels[None].astype(np.float32), version=2))[0]
    order = np.argsort(expected)[::-1]
    assert page.locator(".bars .class").all_inner_texts() == [CLASSES[index] for index in order]
    widths = [float(one.get_attribute("width")) for one in page.locator(".bars .share").all()]
    np.testing.assert_allclose(widths, 100 * expected[order], atol=0.01)


@pytest.mark.parametrize("kind", ["numbers", "image", "text", "nothing"])
def test_a_request_is_copied_as_code_that_gives_the_same(
    page: Any, app: App, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    show(page, {"text": "try?name=words", "numbers": "try?name=picture&version=2"}.get(kind, "try?name=photos"))
    if kind == "image":
        Image.fromarray(np.random.default_rng(1).integers(0, 256, (6, 6, 3), dtype=np.uint8)).save(tmp_path / "p'.png")
        page.locator("#image-1").set_input_files(tmp_path / "p'.png")
    elif kind == "numbers":
        page.locator("#input-1").fill(json.dumps(np.arange(108.0).reshape(1, 6, 6, 3).tolist()))
        page.locator("#outputs").fill("classes\nshared:1")
    elif kind == "text":
        page.locator("#input-1").fill("rain\nit's")
    else:
        page.locator("#input-1").fill("")
    copied = {}
    for way in ("Python", "curl", "grpcurl"):
        page.get_by_role("button", name=way, exact=True).click()
        page.wait_for_selector("#copied:has-text('Copied.')")
        copied[way] = page.evaluate("navigator.clipboard.readText()")
        assert copied[way] == page.locator("#snippet").text_content()
        page.evaluate("document.getElementById('copied').textContent = ''")
    exec(copied["Python"].replace('"p\'.png"', repr(str(tmp_path / "p'.png"))), {})
    printed = capsys.readouterr().out
    program, *words = shlex.split(copied["curl"])
    assert program == "curl"
    body = words[words.index("-d") + 1]
    address = words[0].partition("/v2/")
    assert address[0] == page.base.removesuffix("/ui")
    with urllib.request.urlopen(words[0], body.encode()) as reply:
        by_rest = {one["name"]: one for one in json.load(reply)["outputs"]}
    program, *words = shlex.split(copied["grpcurl"])
    assert (program, words[0], words[-2]) == ("grpcurl", "-plaintext", f"127.0.0.1:{app.grpc_port}")
    message = json_format.Parse(words[words.index("-d") + 1], ModelInferRequest())
    with grpc.insecure_channel(words[-2]) as channel:
        call = channel.unary_unary(f"/{words[-1]}", ModelInferRequest.SerializeToString, ModelInferResponse.FromString)
        by_grpc = call(message)
    assert [one.name for one in by_grpc.outputs] == list(by_rest)
    if kind == "nothing":
        return  # each has random numbers of its own
    for number, (name, one) in enumerate(by_rest.items()):
        array = np.frombuffer(by_grpc.raw_output_contents[number], "<i8" if kind == "text" else "<f4")
        np.testing.assert_allclose(array, one["data"], rtol=1e-5)
        assert name in printed or len(by_rest) == 1
        assert f"{array[0]:.4g}"[:4] in printed or kind == "text"


def test_a_token_is_never_copied(page: Any) -> None:
    show(page, "try?name=words")
    page.evaluate("sessionStorage.setItem('layerserve-token', 'secret')")
    for way in ("Python", "curl", "grpcurl"):
        page.get_by_role("button", name=way, exact=True).click()
        page.wait_for_selector(f"#snippet:has-text('{'client.predict' if way == 'Python' else way + ' '}')")
        text = page.locator("#snippet").inner_text()
        assert "LAYERSERVE_TOKEN" in text
        assert "secret" not in text


@pytest.mark.parametrize("part", ["models", "model?name=photos", "runs", "run?id={run}", "try?name=photos", "sweeps"])
def test_nothing_is_wider_than_a_phone(page: Any, app: App, part: str) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    show(page, part.format(run=app.run.result()))
    page.wait_for_selector("[data-part]:empty", state="detached")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    for table in page.locator("table.cards").all():
        assert table.evaluate("one => one.parentElement.scrollWidth - one.parentElement.clientWidth") == 0
    heads = page.locator("table.cards td:visible").evaluate_all("all => all.map(one => one.dataset.label)")
    assert all(heads)


def test_the_version_that_answers_and_the_canary_are_named(page: Any, app: App) -> None:
    """The newest version isn't the one that answers."""
    show(page, "models")
    row = page.locator("tr:has-text('photos')")
    assert row.locator("td").nth(1).inner_text().split("\n") == ["version 2 canary: version 3, 5%"]
    page.get_by_role("link", name="photos").click()
    page.wait_for_selector(".answers:has-text('Version 2 answers')")
    assert "version 3 answers 5% of the callers" in page.locator(".answers").inner_text()
    page.wait_for_selector("text=Of version 2, which answers requests that name none.")


@pytest.mark.parametrize("path", ["", "/", "/ui/"])
def test_short_addresses_lead_to_the_page(page: Any, path: str) -> None:
    page.goto(page.base.removesuffix("/ui") + path)
    page.wait_for_selector("h1:has-text('Models')")


def test_text_is_predicted_line_by_line(page: Any) -> None:
    show(page, "try?name=words")
    page.locator("#input-1").fill("rain\nsnow\nsun")
    page.get_by_role("button", name="Predict").click()
    page.wait_for_selector("#answer h2")
    assert page.locator("#answer td").all_inner_texts() == ["2", "0", "1"]


@pytest.mark.parametrize("rows", [None, ""], ids=["the example", "an empty field"])
def test_a_model_of_a_fixed_number_of_rows_gets_as_many(page: Any, rows: str | None) -> None:
    show(page, "try?name=pairs")
    if rows is not None:
        page.locator("#input-1").fill(rows)
    page.get_by_role("button", name="Predict").click()
    page.wait_for_selector("#answer h2")
    assert page.locator("#answer td").count() == 2


def test_an_error_is_shown_as_the_sdk_words_it(page: Any) -> None:
    show(page, "try?name=picture&version=2")
    page.locator("#input-1").fill("[[1, 2]]")
    page.get_by_role("button", name="Predict").click()
    line = page.wait_for_selector("#answer .error")
    assert "image" in line.inner_text()
    assert "(2)" in line.inner_text() or "[1, 2]" in line.inner_text() or "(1, 2)" in line.inner_text()


def test_a_version_is_rolled_back_and_a_label_moves(page: Any, app: App) -> None:
    show(page, "model?name=picture")
    asked: list[str] = []

    def answer(dialog: Any) -> None:
        asked.append(dialog.message)
        dialog.dismiss() if len(asked) == 1 else dialog.accept()

    page.on("dialog", answer)
    page.get_by_role("button", name="Roll back to version 1").click()
    assert app.repository.catalogue.describe_one("picture").version == 2
    page.get_by_role("button", name="Roll back to version 1").click()
    page.wait_for_selector("#status:has-text('Rolled back: version 1 of')")
    assert len(asked) == 2
    assert asked[0].startswith("Roll back from version 2 to version 1?")
    page.wait_for_selector("button:disabled:has-text('Roll back')")
    page.wait_for_selector("tr:has-text('pinned') th:has-text('1')")
    assert app.repository.catalogue.describe_one("picture").version == 1
    page.get_by_label("Label", exact=True).fill("stable")
    page.get_by_label("on version").select_option("1")
    page.get_by_role("button", name="Set label").click()
    page.wait_for_selector("tr:has-text('answers') .label:has-text('stable')")
    assert app.repository.catalogue.describe_one("picture", None, "stable").version == 1
    page.get_by_role("button", name="Unpin").click()
    page.wait_for_selector("#status:has-text('No version of')")
    assert app.repository.catalogue.describe_one("picture").version == 2


def test_live_rates_show_what_was_asked(page: Any, app: App) -> None:
    show(page, "model?name=picture")
    page.wait_for_selector("[aria-label=Rates]")
    with Client(f"127.0.0.1:{app.grpc_port}") as client:
        for _ in range(5):
            client.predict("picture", np.zeros((3, 6, 6, 3), np.float32), version=2)
    page.wait_for_selector(".chart figcaption:has-text('Requests per second')")
    page.wait_for_selector(".chart figcaption:has-text('Mean rows in a batch')")


SEEN = (
    "models",
    "model?name=photos",
    "graph?name=picture",
    "try?name=picture",
    "runs",
    "run?id={run}",
    "sweeps",
)


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_axe_finds_nothing(page: Any, app: App, scheme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 844})
    run = app.run.result()
    for part in SEEN:
        show(page, part.format(run=run))
        page.wait_for_selector("[data-part]:empty", state="detached")
        found = axe.run(page).response["violations"]
        assert [(one["id"], one["nodes"][0]["html"]) for one in found] == [], part


def test_a_site_that_has_the_servers_address_reads_and_changes_nothing(page: Any, app: App) -> None:
    page.goto(page.base.replace("127.0.0.1", "evil.example"))
    line = page.wait_for_selector("main .error")
    assert "header 'host': got 'evil.example:" in line.inner_text()
    ask = """async () => {
        const headers = { "x-layerserve-page": document.querySelector('meta[name="page-secret"]').content };
        return (await fetch("/ui/parts/RollBack", { method: "POST", body: "name=picture", headers })).status;
    }"""
    assert page.evaluate(ask) == 403
    # The same request of the page itself is answered.
    show(page, "models")
    assert [page.evaluate(ask.replace("RollBack", method)) for method in ("RollBack", "UnpinVersion")] == [200, 200]


@pytest.mark.parametrize("path", ["../../v2/models/forms", "/v2/models/forms", "..\\..\\v2/models/forms", ".."])
def test_an_address_leads_to_parts_of_the_page_only(page: Any, path: str) -> None:
    """A link of another site may have any address."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url.removeprefix(page.base)))
    page.goto(f"{page.base}#{path}")
    page.wait_for_selector("main :is(h1, .error)")
    assert page.locator("form[data-post=DeleteVersion]").count() == 0
    assert [one for one in asked if "parts" in one] == ["/parts/models"]


def test_keys_reach_everything(page: Any) -> None:
    show(page, "models")
    page.locator("body").press("Tab")
    names = []
    for _ in range(20):
        names.append(page.evaluate("document.activeElement.textContent.trim() || document.activeElement.id"))
        page.keyboard.press("Tab")
    assert {"Models", "Runs", "Sweeps", "Token", "search", "Search", "picture"} <= set(names)


def test_a_restart_of_the_server_needs_no_reload(page: Any) -> None:
    frames = []

    def outdated(route: Any) -> None:
        reply = route.fetch()
        frames.append(reply.status)
        text = reply.text() if len(frames) > 1 else re.sub('page-secret" content="[^"]+', "\\g<0>old", reply.text())
        route.fulfill(response=reply, body=text)

    page.route(page.base, outdated)
    show(page, "model?name=picture")
    page.get_by_role("button", name="Load again").click()
    page.wait_for_selector("#status:has-text('is loaded')")
    assert len(frames) == 2


def test_the_curve_of_a_run_moves(page: Any, app: App) -> None:
    show(page, f"run?id={app.run.result()}")
    line = page.locator(".chart .line.c0").first
    line.wait_for(state="attached")
    before = line.get_attribute("points")
    page.wait_for_selector(f".chart .line.c0[points='{before}']", state="detached")
    assert line.get_attribute("points") != before
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Cancel").click()
    page.wait_for_selector(".state.cancelled")
