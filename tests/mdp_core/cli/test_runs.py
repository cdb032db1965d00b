"""``mdp runs`` over records made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from mdp_core.cli.main import app


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    record(
        tmp_path,
        "20260101-000000-one-aaaa",
        results={"components": [{"title": "prior", "miou": 0.1}, {"title": "segmenter", "miou": 0.421}]},
    )
    record(
        tmp_path, "20260102-000000-two-bbbb", status="failed", error="no space left", seed=3, metrics={"prior.corloc": 0.125}
    )
    record(tmp_path, "20260103-000000-three-cccc", status="running", sweep="s/2", process=2**22 + 1, host=None)
    return tmp_path


def record(home: Path, name: str, status: str = "finished", **more: object) -> None:
    import socket

    folder = home / ".mdp" / "runs" / name
    folder.mkdir(parents=True)
    step = {"id": "prior.mine[train]", "stage": "prior", "kind": "prior", "step": "mine", "plugin": "toy", "role": "train",
            "key": "0" * 32, "status": "done", "seconds": 61.0}  # fmt: skip
    content = {"id": name, "name": name.split("-")[2], "seed": 0, "recipe": "toy.yaml", "overrides": ["a.b=1"], "resolved": {},
               "environment": {}, "status": status, "started": "2026-01-01T00:00:00+00:00", "seconds": 130.0, "steps": [step],
               "planned": ["prior.mine[train]", "detector.fit"], "host": "elsewhere", **more}  # fmt: skip
    if content["host"] is None:
        content["host"] = socket.gethostname()
    (folder / "run.json").write_text(json.dumps(content))


def call(*arguments: str, code: int = 0, answer: str | None = None) -> Result:
    done = CliRunner().invoke(app, ["runs", *arguments], input=answer)
    assert done.exit_code == code, done.output
    return done


def test_the_list(home: Path) -> None:
    lines = call("ls").stdout.splitlines()
    assert [line.split()[1] for line in lines[1:]] == ["finished", "failed", "killed"], "the third's process is gone"
    assert lines[1].endswith("mIoU 42.1 %")
    assert lines[2].endswith("prior.corloc 0.125"), "not every run has a mIoU"
    assert "(s/2)" in lines[3]
    content = json.loads(call("ls", "--json").stdout)["runs"]
    assert [r["value"] for r in content] == [0.421, 0.125, None]
    assert content[1]["seed"] == 3
    assert [r["id"][-4:] for r in json.loads(call("ls", "--failed", "--json").stdout)["runs"]] == ["bbbb", "cccc"]


def test_one_run(home: Path) -> None:
    shown = call("show", "two", code=1)
    assert "no run 'two'" in shown.output
    shown = call("show", "bbbb").output
    for words in (
        "failed, seed 3",
        "toy.yaml --set a.b=1",
        "error: no space left",
        "prior.mine[train]",
        "61 s",
        "detector.fit  not reached",
    ):
        assert words in shown
    assert json.loads(call("show", "last", "--json").stdout)["sweep"] == "s/2"


def test_removing(home: Path) -> None:
    (home / ".mdp" / "runs" / "20260104-000000-torn-dddd").mkdir()
    (home / ".mdp" / "runs" / "20260104-000000-torn-dddd" / "run.json").write_text("{")
    assert "nothing was removed" in call("rm", "aaaa", answer="\n", code=1).output
    asked = call("rm", "aaaa", "cccc", "20260104-000000-torn-dddd", answer="y\n")
    assert "part of sweep s/2" in asked.output
    assert "removed 3 runs" in asked.output
    assert [f.name[-4:] for f in (home / ".mdp" / "runs").iterdir()] == ["bbbb"]
    assert "no run 'aaaa'" in call("rm", "aaaa", "-y", code=1).output
    record(home, "20260105-000000-going-eeee", status="running")
    assert "is under way (process" in call("rm", "eeee", "-y", code=1).output


def test_no_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "no runs in" in call("ls").output
    assert "there are no runs" in call("show", "last", code=1).output
