"""The recipes of the ablations load, can be planned, and have a stage for every row of the tables that they are named for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mdp_core.data.storage import write_json
from mdp_core.engine.lineage import Lineage
from mdp_core.engine.paper_scores import ScoredRun, StageScores
from mdp_core.engine.plan import COMPONENTS, Plan, Role
from mdp_core.engine.planner import make_plan
from mdp_core.engine.published import published
from mdp_core.engine.record import RunRecord, StepRecord
from mdp_core.engine.scan import ImageSet
from mdp_core.plugins.loader import PluginHost, load_plugins
from mdp_core.recipe.load import LoadedRecipe, load_recipe, read_sweep
from mdp_core.recipe.variations import read_axes

ABLATIONS = sorted(f"ablations/{f.stem}" for f in (Path(__file__).parents[2] / "recipes" / "ablations").glob("*.yaml"))
TABLES = published().tables


@pytest.fixture(scope="module")
def host() -> PluginHost:
    return load_plugins([])


@pytest.fixture(scope="module")
def environ(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("data")
    (folder / "moco.pth").write_bytes(b"")
    return {"VOC_ROOT": str(folder), "COCO_ROOT": str(folder), "MOCO_WEIGHTS": str(folder / "moco.pth")}


def variations(name: str, host: PluginHost, environ: dict[str, str]) -> Iterator[tuple[LoadedRecipe, Plan]]:
    """Every run of a recipe's sweep, with one seed, each with its plan."""
    for variation in read_axes(read_sweep(name, [], host), seeds="1").variations():
        loaded = load_recipe(name, variation.overrides, host, environ)
        yield loaded, _plan(loaded, host)


def virtual_run(home: Path, loaded: LoadedRecipe, plan: Plan) -> ScoredRun:
    """The run that a plan would become, as its tables see it; every evaluation says that all is right."""
    folder = home / "runs" / loaded.recipe.name
    folder.mkdir(parents=True, exist_ok=True)
    steps = []
    for step in plan.steps:
        steps.append(StepRecord(step.id, step.stage, step.kind, step.step, step.plugin, step.role, step.key, "done", 1.0))
        write_json(home / "store" / f"{step.kind}-{step.step}" / step.key / "key.json", dict(step.payload))
    run = RunRecord(
        folder, loaded.recipe.name, 0, "", [], loaded.resolved, {}, steps=steps, outputs=dict(plan.outputs), status="finished"
    )
    scores = []
    for row in plan.evaluations:
        result = "semantic" if row.protocol in COMPONENTS else row.protocol.removesuffix("-objects")
        crf = bool(plan.step(row.step).facts.get("dense_crf"))
        if result in ("semantic", "instances", "localisation"):
            scores.append(StageScores(run, row.stage, result, row.protocol, {}, "val", 1, dense_crf=crf))  # type: ignore[arg-type]
    return ScoredRun(run, tuple(scores), Lineage(run), published())


def test_they_are_all_here() -> None:
    wanted = ("clusters", "components", "components-extended", "crf-rounds", "hard-pixels", "linear-probe", "threshold", "topk")
    assert {f"ablations/{name}" for name in wanted} <= set(ABLATIONS)


@pytest.mark.parametrize("name", ABLATIONS)
def test_each_can_be_planned_with_all_its_variations(host: PluginHost, environ: dict[str, str], name: str) -> None:
    plans = [plan for _, plan in variations(name, host, environ)]
    assert plans
    assert all(plan.evaluations for plan in plans)
    assert f"ablations/{read_sweep(name, [], host).name.rpartition('/')[2].removesuffix('.yaml')}" == name


@pytest.mark.parametrize("name", TABLES)
def test_the_recipes_named_for_a_table_fill_all_its_rows(
    host: PluginHost, environ: dict[str, str], tmp_path: Path, name: str
) -> None:
    table = TABLES[name]
    recipes = re.findall(r"mdp sweep ([\w/-]+)", table.make)
    runs = []
    for number, recipe in enumerate(recipes):
        made = variations(recipe, host, environ)
        runs += [virtual_run(tmp_path / f"{number}-{i}", loaded, plan) for i, (loaded, plan) in enumerate(made)]
    for part in table.layout:
        for row in part.rows:
            for column, about in table.columns.items():
                pattern = row.pattern(column)
                if pattern is None or row.optional:
                    continue
                found = [
                    s
                    for run in runs
                    for s in run.scores
                    if s.result == about.result and s.protocol in about.filled_by and run.is_a(s.stage, pattern)
                ]
                assert found, f"{row.label}, {column}"


def _plan(loaded: LoadedRecipe, host: PluginHost) -> Plan:
    config = loaded.recipe.data.config
    splits: dict[Role, str | None] = {"train": config.train, "eval": config.eval, "support": config.support}  # type: ignore[attr-defined]
    images = {role: ImageSet(split, (), (), f"images of {role} {split}", "truth") for role, split in splits.items() if split}
    return make_plan(loaded.recipe, host, images)
