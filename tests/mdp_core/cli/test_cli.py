"""The command line as a person uses it: start-up time, listings, and each mistake with its message."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Call = Callable[..., subprocess.CompletedProcess[str]]
TOY = Path(__file__).parents[2] / "toy_method.py"

FOLDER_RECIPE = """\
name: photos
data: {{use: folder, root: {root}, on_bad_image: {bad}}}
pipeline:
  prior: {{use: bright}}
  clusterer: {{use: colour, clusters: 2}}
  refiner: {{use: keep}}
"""


def run_folder(mdp: Call, root: Path, *more: str, bad: str = "skip") -> subprocess.CompletedProcess[str]:
    recipe = root.parent / "photos.yaml"
    recipe.write_text(FOLDER_RECIPE.format(root=root, bad=bad))
    return mdp("run", str(recipe), "--plugin", str(TOY), "--no-track", *more)


def photos(root: Path, count: int = 4) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        pixels = np.full((40, 50, 3), 30 + i, np.uint8)
        pixels[10:25, 10 + i : 30] = (200, 40 * i, 90)
        Image.fromarray(pixels).save(root / f"{i}.jpg", quality=95)
    return root


def says(done: subprocess.CompletedProcess[str], *words: str, code: int) -> None:
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    for text in words:
        assert text in done.stderr, done.stderr


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom mdp_core.cli.main import app\nfrom typer.testing import CliRunner\n"
        "result = CliRunner().invoke(app, ['--help'])\nassert result.exit_code == 0 and 'quickstart' in result.output\n"
        "print([m for m in ('torch', 'mlflow', 'numpy', 'pydantic', 'yaml', 'timm', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    best = min(_seconds([sys.executable, "-m", "mdp_core.cli.main", "--help"]) for _ in range(5))
    bare = min(_seconds([sys.executable, "-c", "import typer, rich.console, rich.table, rich.panel"]) for _ in range(5))
    assert best < 3 * bare + 0.1, f"{best:.2f} s, of which typer and rich {bare:.2f} s"


def _seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, capture_output=True, check=True)
    return time.perf_counter() - started


def test_plugins_list_and_show(mdp: Call) -> None:
    listed = mdp("plugins", "list", "--json")
    found = {(p["kind"], p["name"]) for p in json.loads(listed.stdout)["plugins"]}
    assert {
        ("dataset", "shapes"), ("dataset", "folder"), ("dataset", "voc"), ("prior", "dino-affinity"), ("clusterer", "kmeans"),
        ("detector", "mask-rcnn"), ("refiner", "confidence"), ("segmenter", "deeplabv3"), ("observer", "mlflow"),
    } <= found  # fmt: skip
    shown = mdp("plugins", "show", "dino-affinity")
    assert "short_side" in shown.stdout
    assert "640" in shown.stdout
    says(mdp("plugins", "show", "dino-afinity"), "no plugin named 'dino-afinity', did you mean 'dino-affinity'", code=1)


def test_every_mistake_at_once_with_its_place(mdp: Call, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(
        "name: bad\ndata: {use: shapes, sise: 64}\npipeline:\n  prior:\n    use: dino-afinity\n  clusterer: {use: colour, clusters: many}\n"
    )
    done = mdp("recipe", "validate", "bad.yaml", "--plugin", str(TOY))
    says(
        done,
        "bad.yaml:2:21: data.sise: unknown setting, did you mean 'size'?",
        "bad.yaml:5:10: pipeline.prior.use: no prior named 'dino-afinity', did you mean 'dino-affinity'?",
        "bad.yaml:6:38: pipeline.clusterer.clusters: expected an integer, got 'many'",
        code=2,
    )
    says(mdp("run", "bad.yaml", "--plugin", str(TOY)), "3 mistakes", code=2)
    assert not (tmp_path / ".mdp").exists(), "nothing is written"


def test_an_unknown_recipe(mdp: Call) -> None:
    says(mdp("run", "quikstart"), "quikstart", "quickstart", code=2)


def test_stages_that_do_not_fit(mdp: Call, tmp_path: Path) -> None:
    recipe = Path(__file__).parents[2] / "toy.yaml"
    done = mdp("run", str(recipe), "--plugin", str(TOY), "--set", "clusterer=null")
    says(done, "pipeline.detector: a detector needs clustered masks", "put a clusterer before it", code=2)
    assert not list(tmp_path.glob(".mdp/runs/*"))


@pytest.mark.parametrize(("root", "words"), [("missing", "missing"), ("empty", "empty")])
def test_no_images(mdp: Call, tmp_path: Path, root: str, words: str) -> None:
    (tmp_path / "empty").mkdir()
    done = run_folder(mdp, tmp_path / root)
    says(done, words, "→", code=1)
    assert not list(tmp_path.glob(".mdp/runs/*"))


def test_images_of_every_kind(mdp: Call, tmp_path: Path) -> None:
    root = photos(tmp_path / "photos")
    grey = np.tile(np.linspace(0, 255, 50, dtype=np.uint8), (40, 1))
    Image.fromarray(grey).save(root / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(root / "deep.png")
    Image.open(root / "1.jpg").convert("RGBA").save(root / "rgba.png")
    Image.open(root / "1.jpg").convert("CMYK").save(root / "cmyk.jpg")
    (root / "sub").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(root / "2.jpg").save(root / "sub" / "turned.JPG", exif=exif)
    whole = (root / "3.jpg").read_bytes()
    (root / "3.jpg").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(np.zeros((1, 1, 3), np.uint8)).save(root / "dot.png")

    done = run_folder(mdp, root)
    assert done.returncode == 0, done.stderr
    run = json.loads(next((tmp_path / ".mdp" / "runs").iterdir()).joinpath("run.json").read_text())
    assert [name for name, _ in run["images"]["train"]["bad"]] == ["3.jpg", "dot.png"]
    assert any("2 of 10 images of split 'all' are skipped" in w and "3.jpg" in w for w in run["warnings"])
    assert "2 of 10 images of split 'all' are skipped" in done.stderr
    maps = next((tmp_path / ".mdp" / "runs").iterdir()) / "label_maps"
    assert Image.open(maps / "sub" / "turned.JPG.png").size == (40, 50), "as a viewer turns it"
    assert len(list(maps.rglob("*.png"))) == 8

    fatal = run_folder(mdp, root, bad="error")
    says(fatal, "2 of 10 images", "3.jpg", "dot.png", "on_bad_image: skip", code=1)


def test_missing_weights_are_found_before_any_work(mdp: Call, tmp_path: Path) -> None:
    done = mdp("run", "quickstart", "--set", "prior.weights=file:nowhere.pth")
    says(done, "pipeline.prior.weights: no such file: nowhere.pth", code=2)
    assert not list(tmp_path.glob(".mdp/runs/*"))


def test_a_home_that_cannot_be_written(mdp: Call, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run_folder(mdp, photos(tmp_path / "photos"), "--home", str(tmp_path / "file" / "home"))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_recipe_show_gives_every_setting_with_its_origin(mdp: Call) -> None:
    shown = mdp("recipe", "show", "quickstart", "--resolved", "--set", "prior.topk=0.2")
    lines = {line.split(":")[0].strip(): line for line in shown.stdout.splitlines()}
    assert lines["topk"].endswith("# --set")
    assert lines["component"].endswith("# default")
    assert "quickstart.yaml:" in lines["centre_keys"]


def test_doctor(mdp: Call) -> None:
    done = mdp("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    for words in ("torch", "plugins from", "results go to"):
        assert words in done.stdout
