"""The segmenter as a pyfunc model: a fresh process predicts what the run predicted."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mdp_core.api import DataError
from mdp_mlflow.models import find_trained, lay_out, requirements
from mdp_mlflow.state import State, read_record

from .conftest import PATIENT, TESTS

Call = Callable[..., subprocess.CompletedProcess[str]]

RECIPE = """\
name: photos
data: {{use: folder, root: {root}}}
pipeline:
  prior: {{use: bright}}
  clusterer: {{use: colour, clusters: 2}}
  refiner: {{use: keep}}
  segmenter: {{use: table}}
"""
PREDICT = """\
import sys, mlflow, numpy as np
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
found = model.predict(sys.argv[4:])
np.savez(sys.argv[3], *found)
print(model.unwrap_python_model().classes, model.metadata.metadata["mdp_run"])
"""


def photos(root: Path) -> list[Path]:
    root.mkdir()
    rng = np.random.default_rng(0)
    for i in range(5):
        pixels = rng.integers(20, 40, (40 + i, 50, 3), dtype=np.uint8)
        pixels[10:25, 10 + i : 30] = (200, 40 * i, 90)
        image, exif = Image.fromarray(pixels), Image.Exif()
        exif[0x0112] = 6 if i == 4 else 1
        image.save(root / f"{i}.jpg", quality=95, exif=exif)
    return sorted(root.iterdir())


def test_a_fresh_process_predicts_what_the_run_predicted(mdp: Call, home: Path, tmp_path: Path) -> None:
    files = photos(tmp_path / "photos")
    (tmp_path / "r.yaml").write_text(RECIPE.format(root=tmp_path / "photos"))
    plugin = tmp_path / "my_plugin.py"
    plugin.write_text((TESTS / "toy_method.py").read_text())
    done = mdp("run", "r.yaml", "--plugin", str(plugin), "--set", PATIENT)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    folder = next((home / "runs").iterdir())
    state = State.read(folder)
    assert state is not None
    assert state.complete
    assert state.model
    plugin.unlink()  # the model brings its own
    (tmp_path / "elsewhere").mkdir()
    place = ["sqlite:///" + str(home / "mlflow.db"), state.model, str(tmp_path / "found.npz")]
    fresh = subprocess.run(
        [sys.executable, "-c", PREDICT, *place, *map(str, files)],
        cwd=tmp_path / "elsewhere", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert fresh.returncode == 0, fresh.stderr
    assert fresh.stdout.split()[-1] == folder.name
    assert "Any type" not in fresh.stderr
    with np.load(tmp_path / "found.npz") as found:
        for i in range(5):
            expected = np.asarray(Image.open(sorted((folder / "label_maps").iterdir())[i]))
            np.testing.assert_array_equal(found[f"arr_{i}"], expected)
            assert found[f"arr_{i}"].dtype == np.uint8
        assert found["arr_4"].shape == (50, 44), "upright, as its EXIF says"
        assert any(found[f"arr_{i}"].any() for i in range(5))


@pytest.fixture(scope="module")
def model(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> object:
    """The model's code on the toy run's segmenter, loaded as MLflow loads it."""
    from mlflow.pyfunc import PythonModelContext

    from mdp_mlflow.model import SegmenterModel

    record = read_record(finished)
    trained = find_trained(finished, record)
    assert trained is not None
    folder = lay_out(trained, record, tmp_path_factory.mktemp("model") / "segmenter")
    loaded = SegmenterModel()
    loaded.load_context(PythonModelContext({"segmenter": str(folder)}, {"device": "cpu"}))
    return loaded


def test_every_form_of_an_image_is_the_same_image(model: object, tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    image.save(buffer, "PNG")
    (tmp_path / "x.png").write_bytes(buffer.getvalue())
    given = [pixels, image, buffer.getvalue(), tmp_path / "x.png", str(tmp_path / "x.png"), Image.open(tmp_path / "x.png")]
    given.append(image.convert("RGBA"))
    found = model.predict(None, given)
    assert len(found) == len(given)
    for values in found:
        np.testing.assert_array_equal(values, found[0])
    assert found[0].shape == (30, 40)
    assert np.unique(found[0]).size > 1
    assert model.predict(None, []) == []


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "CMYK", "I;16", "F"])
def test_pil_images_of_any_mode_are_read_as_their_files_are(model: object, mode: str, tmp_path: Path) -> None:
    grey = np.random.default_rng(2).integers(0, 255, (20, 24), dtype=np.uint8)
    image = Image.fromarray(grey.astype(np.uint16) * 200) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    image.save(tmp_path / "x.tif")
    in_memory, from_file = model.predict(None, [image, tmp_path / "x.tif"])
    np.testing.assert_array_equal(in_memory, from_file)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((4, 4, 3), np.uint8), "a list of images is expected"),
        (["/nowhere.png"], "image 0: cannot be read"),
        ([np.zeros((4, 4), np.uint8)], r"image 0: an array of uint8 \(4, 4\)"),
        ([np.zeros((4, 4, 3))], "image 0: an array of float64"),
        ([b"no image"], "image 0: cannot be read"),
        ([np.zeros((4, 4, 3), np.uint8), 7], "image 1: a int"),
    ],
)
def test_what_is_no_image_is_said_to_be_so(model: object, given: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        model.predict(None, given)


def test_clusters_have_the_names_of_their_classes(model: object, finished: Path) -> None:
    component = read_record(finished)["results"]["components"][-1]
    named = {c: n for n, c in zip(component["class_names"], component["cluster_of_class"], strict=True) if c is not None}
    assert model.classes == named
    assert model.classes[0] == "background"


def test_requirements_are_pinned_and_of_no_index(finished: Path) -> None:
    record = json.loads(json.dumps(read_record(finished)))
    trained = find_trained(finished, record)
    assert trained is not None
    record["environment"]["libraries"]["torch"] = "2.9.0+cu128"
    listed = requirements(trained.plugin, record)
    assert "torch==2.9.0" in listed
    assert f"mdp-platform=={record['environment']['libraries']['mdp-platform']}" in listed
    assert all("==" in line and "+" not in line and "toy_method" not in line for line in listed)


def test_the_model_is_the_state_that_labels_chose(mdp: Call, tmp_path: Path) -> None:
    chosen = ("--set", "pipeline.segmenter.snapshots=4", "--set", "pipeline.segmenter.checkpoint=best-on-labels")
    done = mdp("run", str(TESTS / "toy.yaml"), "--plugin", str(TESTS / "toy_method.py"), "--no-track", *chosen)
    assert done.returncode == 0, done.stderr
    home = next(Path(line.split()[-1]) for line in done.stdout.splitlines() if line.startswith("results:"))
    folder = tmp_path / home
    record = read_record(folder)
    trained = find_trained(folder, record)
    assert trained is not None
    choice = json.loads(
        (folder.parents[1] / "store" / record["places"]["segmenter.select[eval]"] / "result" / "choice.json").read_text()
    )
    result = folder.parents[1] / "store" / record["places"]["segmenter.fit"] / "result"
    assert trained.folder == result / choice["folder"]
    assert "checkpoint" not in trained.settings
