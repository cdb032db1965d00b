"""`mdp report` for runs that are whole, broken, and robbed of their images, store or plugins."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

TOY = Path(__file__).parents[2]
Call = Callable[..., subprocess.CompletedProcess[str]]


def run(mdp: Call, *more: str) -> subprocess.CompletedProcess[str]:
    return mdp("run", str(TOY / "toy.yaml"), "--plugin", str(TOY / "toy_method.py"), "--no-track", *more)


def photos(folder: Path, count: int = 5) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i in range(count):
        pixels = rng.integers(0, 60, (40, 56, 3), dtype=np.uint8)
        pixels[10:30, 8 + 4 * i : 30 + 4 * i] += np.array([40 * i, 120, 90], np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")


def words(file: Path) -> str:
    text = re.sub(r"<(style|script)>.*?</\1>", "", file.read_text(encoding="utf-8"), flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())


def pictures(file: Path) -> int:
    return file.read_text(encoding="utf-8").count('<img src="data:image/')


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a finished run of the toy method, to be copied."""
    folder = tmp_path_factory.mktemp("finished")
    command = [
        sys.executable,
        "-m",
        "mdp_core.cli.main",
        "run",
        str(TOY / "toy.yaml"),
        "--plugin",
        str(TOY / "toy_method.py"),
        "--no-track",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / ".mdp"


def newest(folder: Path) -> Path:
    return max((folder / ".mdp" / "runs").iterdir())


def test_a_run_by_its_id_its_beginning_or_last(mdp: Call, tmp_path: Path, finished: Path) -> None:
    shutil.copytree(finished, tmp_path / ".mdp")
    folder = newest(tmp_path)
    done = mdp("report", "last")
    assert done.returncode == 0, done.stderr
    assert str(folder / "report.html") in done.stdout
    first = words(folder / "report.html")
    (tmp_path / "there").mkdir()
    done = mdp("report", folder.name[:15], "--output", "there")
    assert done.returncode == 0, done.stderr
    again = words(tmp_path / "there" / "report.html")
    assert re.sub(r"Made by.*", "", first) == re.sub(r"Made by.*", "", again), "the same run gives the same page"
    assert not [p for p in (tmp_path / "there").iterdir() if p.name != "report.html"], "no leftovers"

    missing = mdp("report", "-o", "nowhere/page.html")
    assert missing.returncode == 1
    assert "nowhere: no such folder, so page.html cannot be written there" in missing.stderr
    assert "make the folder first" in missing.stderr
    unknown = mdp("report", "20990101")
    assert unknown.returncode == 1 and "no run '20990101'" in unknown.stderr
    assert "Traceback" not in missing.stderr + unknown.stderr


def test_parts_that_are_gone_are_named_on_the_page(mdp: Call, tmp_path: Path, finished: Path) -> None:
    shutil.copytree(finished, tmp_path / ".mdp")
    store = tmp_path / ".mdp" / "store"
    shutil.rmtree(store / "detector-predict")
    for part in (store / "clusterer-assign").glob("*/parts/*.parquet"):
        part.write_bytes(b"cut off")
    next((store / "segmenter-predict").glob("*/parts/*")).joinpath("val").rename(tmp_path / "elsewhere")
    done = mdp("report", "-o", "page.html")
    assert done.returncode == 0, done.stderr
    text = words(tmp_path / "page.html")
    assert "Missing from this page" in text
    assert re.search(r"detector: Its result is no longer in the store \(store/detector-predict/\w+\)", text)
    assert "clusterer: Its result in the store is damaged" in text
    assert "segmenter: the result of 6 of 6 images cannot be read" in text
    assert "missing: detector" in done.stdout
    assert 'id="stage-refiner"' in (tmp_path / "page.html").read_text()
    assert "prior + clusterer" in text, "the scores are in the record"


def test_a_run_without_ground_truth_whose_images_are_deleted(mdp: Call, tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    method = tmp_path / "method.py"  # its scores go by the last letter of an id, which here is that of a suffix
    method.write_text((TOY / "toy_method.py").read_text().replace("record.id[-1]", "record.id[0]"))
    recipe = tmp_path / "own.yaml"
    recipe.write_text(
        (TOY / "toy.yaml")
        .read_text()
        .replace("{use: shapes, size: 48, train_images: 12, val_images: 6}", "{use: folder, root: photos}")
    )
    (tmp_path / "photos" / "bad.png").write_bytes(b"no image")
    settings = ("--set", "pipeline.refiner.threshold=0.4", "--set", "evaluate=[]")
    done = mdp("run", str(recipe), "--plugin", "method.py", "--no-track", *settings)
    assert done.returncode == 0, done.stderr
    assert mdp("report", "-o", "whole.html").returncode == 0
    whole = words(tmp_path / "whole.html")
    assert "There is no ground truth: ranked by the mean score" in whole
    assert "Highest mean score" in whole and "Lowest mean score" in whole
    assert "1 image could not be used" in whole
    assert "Nowhere." in whole
    assert "Confusion" not in whole

    (tmp_path / "photos" / "2.png").unlink()
    assert mdp("report", "-o", "one.html").returncode == 0
    assert "The image cannot be read" in words(tmp_path / "one.html")
    assert 0 < pictures(tmp_path / "one.html") < pictures(tmp_path / "whole.html")

    shutil.rmtree(tmp_path / "photos")
    done = mdp("report", "-o", "none.html")
    assert done.returncode == 0, done.stderr
    assert pictures(tmp_path / "none.html") == 0
    assert "Plan and timings" in words(tmp_path / "none.html")


def test_a_run_that_failed_shows_its_error_and_what_was_done(mdp: Call, tmp_path: Path) -> None:
    run(mdp, "--set", "pipeline.clusterer.clusters=500")
    done = mdp("report", "-o", "page.html")
    assert done.returncode == 0, done.stderr
    text = words(tmp_path / "page.html")
    record = json.loads((newest(tmp_path) / "run.json").read_text())
    assert record["status"] == "failed"
    assert "The run failed" in text
    assert record["error"].splitlines()[0] in text
    assert text.count("The run did not get this far.") == 4
    assert text.count("not done") == len(record["planned"]) - len(record["steps"])
    assert "first mask hits" in text, "what was evaluated before the error"
    assert pictures(tmp_path / "page.html") > 0


@pytest.mark.parametrize("content", ["", '{"id": "x"', '{"id": "x", "name": 3}'])
def test_a_damaged_record_is_a_clear_error(mdp: Call, tmp_path: Path, content: str) -> None:
    folder = tmp_path / ".mdp" / "runs" / "20260101-000000-x-0000"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(content)
    done = mdp("report")
    assert done.returncode == 1
    assert "error:" in done.stderr and "Traceback" not in done.stderr


def test_the_page_without_the_plugins_of_the_run(mdp: Call, tmp_path: Path, finished: Path) -> None:
    shutil.copytree(finished, tmp_path / ".mdp")
    file = newest(tmp_path) / "run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "plugin_files": ["/nonexistent/method.py"]}))
    done = mdp("report", "-o", "page.html")
    assert done.returncode == 0, done.stderr
    text = words(tmp_path / "page.html")
    assert "Its defaults are not known here" in text
    assert pictures(tmp_path / "page.html") > 0, "pictures need the dataset's plugin only"
