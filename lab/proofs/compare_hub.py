"""Compares all layers, backbones and tasks with KerasHub: `make -C lab hub PEER=PYTHON`, a Python with keras-hub.

    python lab/proofs/compare_hub.py FOLDER

FOLDER is what `hub_oracle.py make` wrote. Each `.keras`, `.h5` and preset folder is loaded here, compared to 1e-5 of
the largest output (half precision: to a few of its steps), and saved again as `.keras` in FOLDER/again, which
`hub_oracle.py check` opens.
"""

from __future__ import annotations

import sys
from pathlib import Path

import layergraph
import numpy as np

#: As in hub_oracle.py.
TOLERANCES = {"float16": 5e-3, "bfloat16": 3e-2, "half": 3e-2}


def difference(path: Path, arrays: Path, again: Path | None) -> float:
    """The largest difference relative to the largest output; saves the model again at `again`."""
    model = layergraph.load_model(path)
    with np.load(arrays) as stored:
        given = {key.removeprefix("input_"): stored[key] for key in stored.files if key.startswith("input_")}
        want = [stored[f"output_{i}"] for i in range(len(stored.files) - len(given))]
    got = model.plan().run(given if len(given) > 1 else dict(zip(model.input_names, given.values(), strict=True)))
    if again is not None:
        model.save(again)
    pairs = zip(got.values(), want, strict=True)
    return max(float(np.abs(np.asarray(a, "float32") - b).max() / max(1, np.abs(b).max())) for a, b in pairs)


def training_difference(path: Path) -> float:
    """The largest difference between the losses of the first steps here and in KerasHub."""
    model = layergraph.load_model(path)
    loss = layergraph.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(layergraph.optimizers.Adam(1e-3), loss)
    with np.load(path.with_suffix(".npz")) as stored:
        arrays = {key.removeprefix("input_"): stored[key] for key in stored.files if key.startswith("input_")}
        labels, want = stored["labels"], stored["losses"]
    options = {"batch_size": len(labels), "epochs": len(want), "shuffle": False, "verbose": 0}
    got = np.array(model.fit(arrays, labels, **options).history["loss"])
    print(f"{path.name}: losses {want[0]:.4f} to {want[-1]:.4f}, differ by {np.abs(got - want).max():.1e}")
    return float(np.abs(got - want).max())


def main(folder: Path) -> int:
    """Compares everything in the folder; the exit status is 1 if anything differs."""
    again = folder / "again"
    again.mkdir(exist_ok=True)
    failed = compared = 0
    worst = 0.0
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".keras", ".h5") or p.is_dir()):
        if path in (again, folder / "training"):
            continue
        compared += 1
        # KerasHub loads presets in float32.
        half = [t for word, t in TOLERANCES.items() if word in path.stem and not path.is_dir()]
        most = half[0] if half else 1e-5
        try:
            target = again / path.name if path.suffix == ".keras" else None
            found = difference(path, folder / f"{path.stem}.npz", target)
        except Exception as error:
            print(f"{path.name}: {type(error).__name__}: {str(error)[:400]}")
            failed += 1
            continue
        if not found <= most:
            print(f"{path.name}: differs by {found:.1e}")
            failed += 1
        elif most == 1e-5:
            worst = max(worst, found)
    failed += sum(training_difference(path) > 1e-5 for path in sorted((folder / "training").glob("*.keras")))
    print(f"{compared} files and folders compared, {failed} mismatches; float32 to {worst:.1e}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
