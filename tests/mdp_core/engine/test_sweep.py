"""Sweeps planned with the toy method: identity, shared steps, the order of runs, state on disk."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from mdp_core.engine.record import RunRecord
from mdp_core.engine.run import RunOptions
from mdp_core.engine.sweep import Sweep, find_sweep, member_runs, open_state, plan_sweep
from mdp_core.engine.sweep_runs import SweepRunner, locked
from mdp_core.errors import RecipeError, RunError
from mdp_core.plugins.loader import load_plugins
from mdp_core.recipe.load import load_recipe, read_sweep
from mdp_core.recipe.variations import read_axes

TOY = Path(__file__).parents[2] / "toy_method.py"
RECIPE = Path(__file__).parents[2] / "toy.yaml"
SMALL = ("data.train_images=4", "data.val_images=2", "data.size=32", "segmenter=null")


class Silent:
    """Listens to a sweep and keeps who began."""

    def __init__(self) -> None:
        self.began: list[int] = []

    def started(self, state: object) -> None:
        self.began.append(state.number)  # type: ignore[attr-defined]

    def ended(self, state: object) -> None:
        pass

    def running(self, runs: object) -> None:
        pass


def planned(home: Path, vary: Sequence[str], seeds: str | None = None, *overrides: str, plugin: Path = TOY) -> Sweep:
    host = load_plugins([plugin])
    over = [*SMALL, *overrides]
    axes = read_axes(read_sweep(str(RECIPE), over, host), vary, seeds)
    return plan_sweep(str(RECIPE), over, axes, host, {}, RunOptions(home))


def test_the_same_command_is_the_same_sweep(tmp_path: Path) -> None:
    vary = ["refiner.threshold=0.5,0.6"]
    one = planned(tmp_path, vary)
    assert one.id.startswith("toy-")
    assert planned(tmp_path, vary).id == one.id
    assert planned(tmp_path, vary, None, "device=cpu").id == one.id, "where it is made does not matter"
    others = {
        planned(tmp_path, vary, "2").id,
        planned(tmp_path, ["refiner.threshold=0.5,0.7"]).id,
        planned(tmp_path, vary, None, "prior.contrast=1.1").id,
        planned(tmp_path, vary, None, "data.val_images=3").id,
        one.id,
    }
    assert len(others) == 5


def test_another_plugin_file_is_another_sweep(tmp_path: Path) -> None:
    vary = ["refiner.threshold=0.5,0.6"]
    plugin = tmp_path / "toy_method.py"
    shutil.copy(TOY, plugin)
    before = planned(tmp_path, vary, plugin=plugin).id
    plugin.write_text(plugin.read_text() + "\n# edited\n")
    assert planned(tmp_path, vary, plugin=plugin).id != before


def test_shared_steps_are_counted_once(tmp_path: Path) -> None:
    """Six thresholds and two contrasts: the detector is fitted for each contrast, the refiner works for all twelve."""
    sweep = planned(tmp_path, ["prior.contrast=1.0,1.1", "refiner.threshold=0.3,0.4,0.5,0.6,0.7,0.8"])
    steps = [step for m in sweep.members for step in m.plan.steps]
    distinct = {step.key: step for step in steps}
    assert sum(s.id == "detector.fit" for s in distinct.values()) == 2
    assert sum(s.kind == "refiner" for s in distinct.values()) == 12
    assert sweep.steps() == (len(steps), len(distinct), 0)


def test_what_shares_nothing_runs_side_by_side(tmp_path: Path) -> None:
    sweep = planned(tmp_path, ["prior.contrast=1.0,1.1", "refiner.threshold=0.3,0.4,0.5"])
    runner = SweepRunner(sweep, open_state(sweep, "mdp sweep"), Silent(), [], jobs=2, keep_going=False)
    first, state = runner._next()
    assert first.number == 1
    runner._running.append(type("Running", (), {"member": first, "state": state})())  # type: ignore[arg-type]
    assert runner._next()[0].variation.settings["pipeline.prior.contrast"] == "1.1"
    runner._made |= first.keys
    runner._running.clear()
    left = [runner._next()[0].number for _ in range(4)]
    assert sorted(left) == [2, 3, 5, 6]


def test_a_member_gets_its_recipe_as_it_was_checked(tmp_path: Path) -> None:
    """The file of each member, loaded alone, has the same settings and the same keys."""
    sweep = planned(tmp_path, ["prior={use: bright, contrast: 1.1},{use: crash}", "evaluate=[clustering],[]"], "2")
    open_state(sweep, "mdp sweep")
    host = load_plugins([TOY])
    assert len(sweep.members) == 8
    for member in sweep.members:
        loaded = load_recipe(str(sweep.folder / f"{member.number}.yaml"), [], host, {})
        assert loaded.resolved == member.loaded.resolved


def test_two_variations_of_one_recipe(tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"two variations are the same recipe: refiner.threshold=0.5 and refiner.threshold='0.5'"
    ):
        planned(tmp_path, ["refiner.threshold=0.5,'0.5'"])


def test_state_says_what_is_finished(tmp_path: Path) -> None:
    sweep = planned(tmp_path, ["refiner.threshold=0.5,0.6"], "2")
    for number, status in ((2, "failed"), (2, "finished"), (3, "killed")):
        folder = tmp_path / "runs" / f"20260101-00000{number}-{status}"
        folder.mkdir(parents=True)
        RunRecord(folder, "toy", 7, "x", [], {}, {}, status=status, sweep=f"{sweep.id}/{number}").save()  # type: ignore[arg-type]
    open_state(sweep, "mdp sweep x")
    state = find_sweep(tmp_path, "last")
    assert [m.status for m in state.members] == ["waiting", "finished", "waiting", "waiting"]
    assert state.members[1].settings == {"pipeline.refiner.threshold": "0.5", "seed": "8"}
    found, missing = member_runs(tmp_path, state)
    assert [r.id for r in found] == ["20260101-000002-finished"]
    assert [m.number for m in missing] == [1, 3, 4]


def test_a_sweep_by_name(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there are no sweeps"):
        find_sweep(tmp_path, "last")
    sweep = planned(tmp_path, ["refiner.threshold=0.5,0.6"])
    open_state(sweep, "mdp sweep")
    assert (
        find_sweep(tmp_path, sweep.id).id
        == find_sweep(tmp_path, "toy").id
        == find_sweep(tmp_path, sweep.id[-6:]).id
        == sweep.id
    )
    with pytest.raises(RunError, match=f"no sweep.*{sweep.id}"):
        find_sweep(tmp_path, "nothing")
    other = planned(tmp_path, ["refiner.threshold=0.5,0.7"])
    open_state(other, "mdp sweep")
    with pytest.raises(RunError, match="2 sweeps are named like that"):
        find_sweep(tmp_path, "toy")
    (other.folder / "sweep.json").write_text("{")
    with pytest.raises(RunError, match="missing or damaged"):
        find_sweep(tmp_path, other.id)


def test_a_sweep_is_made_by_one_process(tmp_path: Path) -> None:
    sweep = planned(tmp_path, ["refiner.threshold=0.5,0.6"])
    code = "import sys, time, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print('held', flush=True); time.sleep(60)"
    sweep.folder.mkdir(parents=True)
    holder = subprocess.Popen([sys.executable, "-c", code, str(sweep.folder / "lock")], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(RunError, match="under way in another process"), locked(sweep):
            pass
    finally:
        holder.kill()
        holder.wait()
    with locked(sweep):
        pass


def test_work_that_changed_under_way_is_no_result(tmp_path: Path) -> None:
    """A plugin edited between the check and the run: its results are of another sweep."""
    plugin = tmp_path / "toy_method.py"
    shutil.copy(TOY, plugin)
    sweep = planned(tmp_path, ["prior.contrast=1.0"], None, "clusterer=null", "detector=null", "refiner=null", plugin=plugin)
    plugin.write_text(plugin.read_text() + "\n# edited\n")
    state = open_state(sweep, "mdp sweep")
    SweepRunner(sweep, state, Silent(), ["--plugin", str(plugin), "--no-track"], jobs=1, keep_going=False).go()
    assert state.members[0].status == "failed"
    assert "plugins changed while the sweep was under way" in str(state.members[0].error)
    written = json.loads((sweep.folder / "sweep.json").read_text())
    assert written["members"][0]["status"] == "failed"
