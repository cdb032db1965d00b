"""``mdp compare`` as a person calls it, on real runs of the toy method."""

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
from PIL import Image

RECIPE = Path(__file__).parents[2] / "toy.yaml"
TOY = Path(__file__).parents[2] / "toy_method.py"
SMALL = ("--set", "data.train_images=6", "--set", "data.val_images=4", "--set", "data.size=32", "--set", "segmenter=null")
Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two thresholds and two seeds, done."""
    folder = tmp_path_factory.mktemp("swept")
    command = [
        "sweep",
        str(RECIPE),
        "--plugin",
        str(TOY),
        "--no-track",
        *SMALL,
        "--vary",
        "refiner.threshold=0.4,0.9",
        "--seeds",
        "2",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "mdp_core.cli.main", *command], cwd=folder, capture_output=True, text=True, check=False,
        env={name: value for name, value in os.environ.items() if name != "MDP_HOME"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "again: mdp compare --sweep toy-" in done.stdout
    return folder / ".mdp"


def records(home: Path) -> dict[str, dict[str, Any]]:
    found = [json.loads(f.read_text()) for f in sorted((home / "runs").glob("*/run.json"))]
    return {r["sweep"].rpartition("/")[2]: r for r in found}


def test_a_sweep_in_every_format(mdp: Call, home: Path, tmp_path: Path) -> None:
    values = {n: r["metrics"]["refiner.miou"] for n, r in records(home).items()}
    first, second = [values["1"], values["2"]], [values["3"], values["4"]]
    content = json.loads(mdp("compare", "--sweep", "last", "--home", str(home), "--json").stdout)
    assert [row["settings"] for row in content["rows"]] == [{"pipeline.refiner.threshold": t} for t in (0.4, 0.9)]
    assert [list(row["runs"]) for row in content["rows"]] == [["7", "8"]] * 2
    metrics = [row["metrics"]["refiner.miou"] for row in content["rows"]]
    assert [m["mean"] for m in metrics] == pytest.approx([statistics.mean(first), statistics.mean(second)])
    assert [m["std"] for m in metrics] == pytest.approx([statistics.stdev(first), statistics.stdev(second)])
    assert metrics[1]["difference"]["mean"] == pytest.approx(statistics.mean(b - a for a, b in zip(first, second, strict=True)))

    out = tmp_path / "table.csv"
    done = mdp("compare", "--sweep", "last", "--home", str(home), "--csv", "-o", str(out), "--metric", "refiner.*")
    assert done.returncode == 0 and done.stdout == ""
    rows = list(csv.DictReader(io.StringIO(out.read_text())))
    assert float(rows[1]["refiner.miou mean"]) == pytest.approx(statistics.mean(second))
    assert "refiner.pixel_accuracy mean" in rows[0]

    md = mdp("compare", "--sweep", "last", "--home", str(home), "--md").stdout
    assert f"{100 * statistics.mean(second):.2f} ± {100 * statistics.stdev(second):.2f}" in md
    assert mdp("compare", "--sweep", "last", "--home", str(home), "--latex").stdout.count(r"\\") == 3
    shown = mdp("compare", "--sweep", "last", "--home", str(home)).stdout
    assert max(map(len, shown.splitlines()[:4])) < 130
    assert f"{100 * statistics.mean(second):.2f} ± {100 * statistics.stdev(second):.2f}" in shown


def test_runs_by_id(mdp: Call, home: Path) -> None:
    found = records(home)
    done = mdp(
        "compare", found["1"]["id"], "--home", str(home), found["3"]["id"][-4:], "--json", "--baseline", found["3"]["id"]
    )
    content = json.loads(done.stdout)
    assert content["baseline"] == 2
    assert [list(row["runs"].values()) for row in content["rows"]] == [[found["1"]["id"]], [found["3"]["id"]]]


def test_a_curve(mdp: Call, home: Path, tmp_path: Path) -> None:
    done = mdp(
        "compare",
        "--sweep",
        "last",
        "--home",
        str(home),
        "--curve",
        "refiner.threshold",
        "--metric",
        "refiner.miou",
        "-o",
        "c.svg",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "c.svg: refiner.miou over refiner.threshold\n"
    assert "<svg" in (tmp_path / "c.svg").read_text()


def test_runs_on_other_images_are_warned_of(mdp: Call, home: Path) -> None:
    run = mdp("run", str(RECIPE), "--plugin", str(TOY), "--no-track", *SMALL, "--set", "data.val_images=3", "--home", str(home))
    assert run.returncode == 0, run.stderr
    done = mdp("compare", "last", records_with(home, "3"), "--home", str(home))
    assert done.returncode == 0
    assert "warning: the runs were evaluated on different images, so their numbers cannot be compared" in done.stderr


def records_with(home: Path, number: str) -> str:
    for file in (home / "runs").glob("*/run.json"):
        record = json.loads(file.read_text())
        if (record["sweep"] or "").endswith(f"/{number}"):
            return str(record["id"])
    raise AssertionError(number)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name the runs to compare"),
        (["nothing"], "no run 'nothing'"),
        (["--sweep", "nothing"], "nothing: no sweep"),
        (["--sweep", "last", "--md", "--csv"], "--md and --csv are two formats"),
        (["--sweep", "last", "--curve", "refiner.threshold"], "a curve is a figure"),
        (["--sweep", "last", "-o", "x.md"], "a table has a format"),
        (["--sweep", "last", "--curve", "refiner.threshold", "-o", "x.pdf"], "a figure is a .png or a .svg file"),
        (["--sweep", "last", "--curve", "prior.use", "-o", "x.png"], "pipeline.prior.use is not a number"),
        (["--sweep", "last", "--metric", "mio"], "did you mean 'miou'"),
        (["--sweep", "last", "--baseline", "9"], "no row is like that"),
    ],
)
def test_mistakes(mdp: Call, home: Path, arguments: list[str], message: str) -> None:
    done = mdp("compare", *arguments, "--home", str(home))
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_stages_of_several_runs_side_by_side(mdp: Call, tmp_path: Path) -> None:
    run = ["run", str(RECIPE), "--plugin", str(TOY), "--no-track", "--until", "clusterer"]
    for contrast in ("1.0", "1.5"):
        assert mdp(*run, "--set", f"prior.contrast={contrast}").returncode == 0
    done = mdp("compare", "last", "last~1", "--pictures", "prior", "-o", "side.png")
    assert done.returncode == 0, done.stderr
    width, height = Image.open(tmp_path / "side.png").size
    assert width > 4 * 260, "the image, two runs, the ground truth"
    assert height > 260
    assert mdp("run", *run[1:], "--set", "data.val_images=3").returncode == 0
    for arguments, words in (
        (["last", "last~1", "--pictures", "prior", "-o", "x.png"], "are of different images"),
        (["last~1", "last~2", "--pictures", "priro", "-o", "x.png"], "did you mean 'prior'?"),
        (["last~1", "last~2", "--pictures", "prior"], "write --pictures prior -o prior.png"),
        (["last~1", "last~2", "--pictures", "prior", "-o", "x.svg"], "--pictures draws one picture"),
    ):
        failed = mdp("compare", *arguments)
        assert failed.returncode != 0
        assert words in failed.stderr, failed.stderr
    assert not (tmp_path / "x.png").exists()
