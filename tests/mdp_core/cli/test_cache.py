"""``mdp cache`` and ``mdp runs`` as a person uses them, over a store that real runs made."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from mdp_core.cli.main import app

TESTS = Path(__file__).parents[2]
TOY = (str(TESTS / "toy.yaml"), "--plugin", str(TESTS / "toy_method.py"))
Call = Callable[..., Result]


def make(home: Path, *more: str) -> None:
    call = [sys.executable, "-m", "mdp_core.cli.main", "run", *TOY, "--no-track", "--home", str(home), *more]
    made = subprocess.run(call, cwd=home.parent, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("two") / "home"
    make(home)
    make(home, "--set", "refiner.threshold=0.3")
    return home


@pytest.fixture
def home(two_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to do with as one likes."""
    shutil.copytree(two_runs, tmp_path / "home")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MDP_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def call(*arguments: str, code: int = 0, answer: str | None = None) -> Result:
    done = CliRunner().invoke(app, arguments, input=answer)
    assert done.exit_code == code, done.output
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done


def listed(*more: str) -> list[dict[str, object]]:
    return json.loads(call("cache", "ls", "--json", *more).stdout)["results"]


def says(done: Result, *words: str) -> None:
    for text in words:
        assert text in done.output, done.output


def run_ids(home: Path) -> Sequence[str]:
    return sorted(f.name for f in (home / "runs").iterdir() if f.name != ".trash")


def test_the_list(home: Path) -> None:
    first, second = run_ids(home)
    found = listed()
    assert len(found) == 24
    assert {len(r["runs"]) for r in found if r["step"] == "prior-mine"} == {2}
    assert sorted(r["runs"] for r in found if r["step"] == "segmenter-fit") == [[first], [second]]
    assert sorted(r["images"] for r in found if r["step"] == "prior-mine") == [6, 12]
    assert len(listed("mine")) == len(listed("prior-mine")) == len(listed("prior")) == 2
    says(call("cache", "ls"), "24 results, ", "segmenter-predict", "bright")
    says(call("cache", "ls", "prior-mime"), "no results of step 'prior-mime', did you mean 'prior-mine'?")


def test_what_a_result_was_made_of(home: Path) -> None:
    (fit,) = (r for r in listed("detector-fit"))
    shown = call("cache", "explain", str(fit["key"])[:12])
    says(
        shown, f"detector-fit {fit['key']}", "settings.iters: 6", "seed: 7", "labels: clusterer-assign/", "instances: prior-mine/",
        "made from it: detector-predict/", run_ids(home)[0], run_ids(home)[1],
    )  # fmt: skip
    content = json.loads(call("cache", "explain", str(fit["key"]), "--json").stdout)
    assert content["payload"]["settings"] == {"iters": 6}
    assert content["inputs"]["labels"]["inputs"]["clusters"]["inputs"]["embeddings"]["step"] == "clusterer-embed"
    says(call("cache", "explain", "0000", code=1), "no result '0000'", "`mdp cache ls`")


def test_how_a_recipe_differs(home: Path) -> None:
    changed = (*TOY, "--set", "refiner.threshold=0.5", "--set", "detector.iters=7")
    shown = call("cache", "explain", *changed)
    says(shown, "detector.fit (memory): detector.iters: 6 → 7", "refiner.threshold: 0.3 → 0.5", "refiner.threshold: 0.6 → 0.5")
    assert "prior.mine" not in shown.output.split("refiner.refine")[0].split("detector.fit")[0], "hits need no explanation"
    content = json.loads(call("cache", "explain", changed[0], "refiner.refine", *changed[1:], "--json").stdout)
    assert [s["id"] for s in content["steps"]] == ["refiner.refine[train]", "refiner.refine[eval]"]
    assert {c["old"] for n in content["steps"][0]["nearest"] for c in n["changes"] if c["setting"] == "refiner.threshold"} == {
        0.3,
        0.6,
    }
    says(call("cache", "explain", *TOY), "every step is in the store")
    says(call("cache", "explain", TOY[0], "detector.fit", *TOY[1:]), "detector.fit: in the store; `mdp cache explain ")
    says(
        call("cache", "explain", TOY[0], "detector.fot", *TOY[1:], code=2),
        "no step 'detector.fot', did you mean 'detector.fit'?",
    )
    says(call("cache", "explain", "nothing.yaml", code=2), "nothing.yaml")


def test_damage_is_found_and_mended_and_only_that_is_made_anew(home: Path) -> None:
    says(call("cache", "verify"), "24 results are whole")
    (train,) = (r for r in listed("prior-mine") if r["images"] == 12)
    part = home / "store" / "prior-mine" / str(train["key"]) / "parts" / "00000.parquet"
    whole = part.read_bytes()
    part.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    bad = call("cache", "verify", code=1)
    says(bad, f"damaged: prior-mine/{train['key']}: parts/00000.parquet", "1 of 24 results are damaged", "--repair")
    content = json.loads(call("cache", "verify", str(train["key"]), "--json", code=1).stdout)
    assert [r["damaged"] for r in content["results"]] == [["parts/00000.parquet"]]
    says(call("cache", "verify", "--repair"), "1 made incomplete")
    says(call("cache", "ls", "prior-mine"), "unfinished")
    make(home)
    record = json.loads((home / "runs" / run_ids(home)[-1] / "run.json").read_text())
    assert [s["id"] for s in record["steps"] if s["status"] != "hit"] == ["prior.mine[train]"]
    assert part.read_bytes() == whole
    says(call("cache", "verify"), "24 results are whole")


def test_removing_a_run_and_what_it_alone_used(home: Path) -> None:
    first, second = run_ids(home)
    says(call("cache", "gc"), "freed 0 B")
    says(call("runs", "rm", "last", answer="n\n", code=1), second, "nothing was removed")
    says(call("runs", "rm", second[-4:], "last", "--yes"), "removed 1 run;")
    assert run_ids(home) == [first]
    dry = json.loads(call("cache", "gc", "--dry-run", "--json").stdout)
    assert len(dry["results"]) == 6
    assert len(listed()) == 24
    says(call("cache", "gc", "--older-than", "1h"), "freed 0 B")
    says(call("cache", "gc", "--max-size", "1TB"), "freed 0 B")
    says(call("cache", "gc", "--max-size", "1B"), "removed segmenter-fit/", "runs refer to it")
    assert len(listed()) == 18
    says(call("plan", *TOY), "nothing to do")
    says(call("runs", "rm", first, "-y"), "removed 1 run")
    says(call("cache", "gc", code=1), "there are no runs")
    says(call("cache", "gc", "--everything"), "the results that stay take 0 B")
    assert listed() == []
    says(call("cache", "ls"), "no results in")


def test_options_that_make_no_sense(home: Path) -> None:
    says(call("cache", "gc", "--max-size", "20", code=2), "--max-size 20: not a size such as 20GB", "the unit is missing")
    says(call("cache", "gc", "--older-than", "soon", code=2), "--older-than soon: not an age such as 30d")
    says(call("cache", "verify", "zzzz", code=1), "no result 'zzzz'")
