"""``mdp table`` as a person calls it, on real runs of the toy method with every stage that a table can ask for."""

from __future__ import annotations

import csv
import io
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parents[2]
Call = Callable[..., subprocess.CompletedProcess[str]]
RECIPE = f"""
extends: {TESTS / "toy.yaml"}
data: {{use: shapes, size: 32, train_images: 6, val_images: 4}}
pipeline:
  refiner: {{use: confidence, threshold: 0.4}}
  crf: {{kind: refiner, use: dense-crf, input: segmenter, unary: labels}}
  segmenter-2: {{kind: segmenter, use: table, input: crf}}
  crf-2: {{kind: refiner, use: dense-crf, input: segmenter-2, unary: labels}}
  boxes: {{kind: refiner, use: confidence, input: detector, pixels: box}}
  grabcut: {{kind: refiner, use: confidence, input: detector, pixels: grabcut}}
evaluate: [clustering, clustering-objects, instances]
sweep: {{seeds: 2}}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two seeds, done."""
    folder = tmp_path_factory.mktemp("swept")
    (folder / "toy-extended.yaml").write_text(RECIPE)
    command = ["sweep", "toy-extended.yaml", "--plugin", str(TESTS / "toy_method.py"), "--no-track"]
    done = subprocess.run(
        [sys.executable, "-m", "mdp_core.cli.main", *command], cwd=folder, capture_output=True, text=True, check=False,
        env={name: value for name, value in os.environ.items() if name != "MDP_HOME"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / ".mdp"


def records(home: Path) -> list[dict[str, Any]]:
    return [json.loads(f.read_text()) for f in sorted((home / "runs").glob("*/run.json"))]


def miou(record: dict[str, Any], stage: str, protocol: str = "clustering") -> float:
    rows = record["results"]["components"]
    (row,) = [r for r in rows if r["stage"] == stage and r.get("protocol_name", "clustering") == protocol]
    return 100 * float(row["miou"])


def test_every_stage_finds_its_row(mdp: Call, home: Path) -> None:
    done = mdp("table", "pascal-components-extended", "--sweep", "last", "--home", str(home), "--csv", "-")
    assert done.returncode == 0, done.stderr
    rows = [r for r in csv.DictReader(io.StringIO(done.stdout)) if r["mean"]]
    stages = {
        "Self-sup. vision transformer": "clusterer", "+ Mask R-CNN (bbox)": "boxes", "+ GrabCut": "grabcut",
        "+ Mask R-CNN (mask)": "refiner", "+ Segmentation model": "segmenter", "+ CRF, one round": "crf",
        "+ CRF, after two rounds": "crf-2",
    }  # fmt: skip
    assert {r["row"] for r in rows} == set(stages)
    for row in rows:
        values = [miou(record, stages[row["row"]], row["protocol"]) for record in records(home)]
        assert float(row["mean"]) == pytest.approx(statistics.fmean(values))
        assert float(row["std"]) == pytest.approx(statistics.stdev(values))
        assert row["seeds"] == "7 8"
    assert {r["protocol"] for r in rows} == {"clustering", "clustering-objects"}


def test_what_is_printed(mdp: Call, home: Path) -> None:
    done = mdp("table", "pascal-components-extended", "--sweep", "last", "--home", str(home))
    assert done.returncode == 0, done.stderr
    first, second = records(home)
    values = [miou(first, "segmenter"), miou(second, "segmenter")]
    line = next(line for line in done.stdout.splitlines() if line.startswith("+ Segmentation model"))
    assert line.split("  ")[0] == "+ Segmentation model"
    assert f"45.8  {statistics.fmean(values):.1f} ± {statistics.stdev(values):.1f} *" in " ".join(line.split(" "))
    assert "evaluated on 4 images of another set" in done.stderr
    assert "3 clusters, the paper has 20" in done.stderr
    assert "with dense CRF" in done.stdout
    assert "published numbers: Table S1 of W. Van Gansbeke" in done.stdout
    assert "[instances]" not in done.stdout


def test_files_in_every_format(mdp: Call, home: Path, tmp_path: Path) -> None:
    files = [a for form in ("md", "csv", "json", "latex") for a in (f"--{form}", f"t.{form}")]
    done = mdp("table", "voc-instances", "--sweep", "last", "--home", str(home), *files)
    assert done.returncode == 0, done.stderr
    assert "MaskDistill, Mask R-CNN" in done.stdout
    assert "t.latex: voc-instances" in done.stdout
    assert (tmp_path / "t.md").read_text().startswith("**Table 3: ")
    assert r"\begin{tabular}" in (tmp_path / "t.latex").read_text()
    content = json.loads((tmp_path / "t.json").read_text())
    assert sum(bool(n["ours"]) for n in content["numbers"]) == 18
    found = next(n for n in content["numbers"] if n["part"].startswith("(a)") and n["row"] == "MaskDistill, Mask R-CNN")
    run = records(home)[0]["results"]["instances"]["detector"]["settings"]["multi.agnostic"]
    assert found["ours"][0]["seeds"]["7"]["value"] == pytest.approx(100 * run["ap50"])


def test_the_list_needs_no_runs_and_no_heavy_library(mdp: Call, tmp_path: Path) -> None:
    done = mdp("table")
    assert done.returncode == 0, done.stderr
    assert "figure-threshold" in done.stdout
    assert "mdp sweep ablations/components" in done.stdout
    code = "import sys\nfrom mdp_core.cli.main import app\ntry:\n app(['table'])\nexcept SystemExit:\n pass\nprint([m for m in ('torch','mlflow','matplotlib','scipy') if m in sys.modules])"
    heavy = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert heavy.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (("pascal-component", "last"), "no table 'pascal-component', did you mean 'pascal-components'?", "there are: pascal-"),
        (("pascal-components",), "name the runs that fill the table", "mdp sweep ablations/components"),
        (("pascal-components", "nobody"), "no run 'nobody'", "`mdp runs ls`"),
        (("pascal-components", "--sweep", "nobody"), "no sweep", ""),
        (("figure-topk", "last", "--csv", f"{TESTS}/toy.yaml/place.csv"), "toy.yaml/place.csv", ""),
    ],
)
def test_mistakes(mdp: Call, home: Path, arguments: tuple[str, ...], message: str, hint: str) -> None:
    done = mdp("table", *arguments, "--home", str(home))
    assert done.returncode == 1
    assert message in done.stderr
    assert hint in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_that_evaluated_nothing(mdp: Call) -> None:
    """It is refused with what to add."""
    run = ("run", str(TESTS / "toy.yaml"), "--plugin", str(TESTS / "toy_method.py"), "--no-track", "--until", "prior")
    done = mdp(*run, "--set", "evaluate=[]", "--set", "data.train_images=2", "--set", "data.val_images=1")
    assert done.returncode == 0, done.stderr
    done = mdp("table", "pascal-components", "last")
    assert done.returncode == 1
    assert "has no results: nothing was evaluated" in done.stderr
    assert "evaluate: [clustering]" in done.stderr
