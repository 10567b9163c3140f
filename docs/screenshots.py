"""Makes the pictures of the page in docs/images: `python docs/screenshots.py`. Needs Chromium (Debian's `chromium`)."""

from __future__ import annotations

import io
import shutil
import tempfile
import threading
from pathlib import Path

import numpy as np
from layerserve import Checkpoints, Client
from layerserve_server.app import App
from layerserve_server.extensions.installed import Settings
from layerserve_zoo.zoo import ZOO
from PIL import Image
from playwright.sync_api import Page, sync_playwright

FOLDER = Path(__file__).parent / "images"
WIDTH, HEIGHT = 1120, 760


def save(page: Page, name: str) -> None:
    """Writes what the page shows as WebP."""
    image = Image.open(io.BytesIO(page.screenshot()))
    image.convert("RGB").save(FOLDER / f"ui-{name}.webp", quality=70, method=6)


def ask(client: Client, ended: threading.Event) -> None:
    """Asks for predictions until the event is set."""
    random = np.random.default_rng(0)
    rows = random.normal(size=(8, 64)).astype("float32")
    while not ended.wait(0.01):
        client.predict("dense", rows[: random.integers(1, 9)])


def take(page: Page, client: Client, base: str) -> None:
    """Takes all pictures."""
    labels = np.eye(10, dtype="float32")[np.random.default_rng(1).integers(10, size=512)]
    rows = np.random.default_rng(2).normal(size=(512, 64)).astype("float32") + labels.argmax(1)[:, None] / 4
    settings = {"optimizer": "adam", "loss": "categorical_crossentropy", "metrics": ["accuracy"], "epochs": 20}
    kept = {"checkpoints": Checkpoints(every_epochs=5, keep=3), "publish": False}
    run = client.train(
        "dense", rows, labels, validation_split=0.2, description="Digits of November", **settings, **kept
    )
    client.set_label("dense", "stable", 1)
    ended = threading.Event()
    asking = threading.Thread(target=ask, args=(client, ended))
    asking.start()
    try:
        page.goto(f"{base}#model?name=dense")
        page.wait_for_selector(".chart")
        page.wait_for_timeout(16_000)
        save(page, "model")
    finally:
        ended.set()
        asking.join()
    page.goto(f"{base}#graph?name=shared_vision")
    page.wait_for_selector(".graph")
    save(page, "graph")
    run.wait()
    page.emulate_media(color_scheme="dark")
    page.goto(f"{base}#run?id={run.id}")
    page.wait_for_selector(".chart")
    page.wait_for_selector("td:has-text('Publish')")
    save(page, "run")


def main() -> None:
    """Serves the small zoo, and takes the pictures."""
    FOLDER.mkdir(exist_ok=True)
    program = shutil.which("chromium")
    with tempfile.TemporaryDirectory() as temporary:
        models = Path(temporary)
        for name in ("dense", "shared_vision", "tweets"):
            for version in "12":
                (models / name / version).mkdir(parents=True)
                ZOO[name].make(small=True).save(models / name / version / "model.keras")
        settings = Settings(
            path=models, host="127.0.0.1", grpc_port=0, http_port=0, metrics_port=-1, ui=True, drain_seconds=0,
        )  # fmt: skip
        with (
            App(settings) as app,
            Client(f"127.0.0.1:{app.grpc_port}", timeout=60) as client,
            sync_playwright() as playwright,
        ):
            browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
            take(page, client, f"http://127.0.0.1:{app.http_port}/ui")
            browser.close()


if __name__ == "__main__":
    main()
