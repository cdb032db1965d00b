from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from mdp_core.data.images import ImageRecord
from mdp_core.engine.cache import Cache
from mdp_core.engine.differences import Change
from mdp_core.engine.forecast import Forecast, config_of, forecast
from mdp_core.engine.jobs import PART_SUFFIX
from mdp_core.engine.plan import Plan, Role, Step
from mdp_core.engine.planner import make_plan
from mdp_core.engine.scan import ImageSet
from mdp_core.engine.store import Entry, Manifest, Store
from mdp_core.plugins.loader import PluginHost, load_plugins
from mdp_core.recipe.load import load_recipe
from mdp_core.recipe.schema import Recipe

RECIPE = str(Path(__file__).parents[2] / "toy.yaml")


@pytest.fixture(scope="module")
def host() -> PluginHost:
    return load_plugins([Path(__file__).parents[2] / "toy_method.py"])


def images(train: int = 12, evaluate: int = 6, name: str = "all") -> dict[Role, ImageSet]:
    def some(split: str, count: int) -> ImageSet:
        records = tuple(ImageRecord(f"{i}", 48, 48) for i in range(count))
        return ImageSet(split, records, (), f"fingerprint of {count} of {split} {name}", "truth")

    return {"train": some("train", train), "eval": some("val", evaluate)}


def planned(host: PluginHost, *overrides: str, **options: Any) -> tuple[Plan, Recipe, dict[Role, ImageSet]]:
    recipe = load_recipe(RECIPE, overrides, host, {}).recipe
    there = images(**options)
    return make_plan(recipe, host, there), recipe, there


def told(home: Path, host: PluginHost, *overrides: str, **options: Any) -> Forecast:
    plan, recipe, there = planned(host, *overrides, **options)
    return forecast(plan, recipe, there, Cache(home), host=host)


def put(home: Path, step: Step, *, seconds: float = 2.0, images: int = 0, parts: int = 1, device: str = "cpu") -> Entry:
    """Makes a step complete, without doing it."""
    entry = Store(home).entry(step.kind, step.step, step.key, step.payload)
    entry.begin()
    names = ["result"]
    if (step.kind, step.step) in PART_SUFFIX:
        names = [f"parts/{n:05d}{PART_SUFFIX[step.kind, step.step]}" for n in range(parts)]
        entry.parts.mkdir()
    for name in names:
        (entry.folder / name).write_text(f"contents of {name}")
    entry.finish(names, Manifest({}, {"device": device}, seconds=seconds, images=images))
    return entry


def put_all(home: Path, host: PluginHost, *overrides: str, **options: Any) -> Plan:
    plan, _, there = planned(host, *overrides, **options)
    for step in plan.steps:
        put(home, step, images=len(there[step.role].records))
    return plan


def by_id(found: Forecast) -> dict[str, Any]:
    return {s.step.id: s for s in found.steps}


def test_nothing_is_known_of_an_empty_store(tmp_path: Path, host: PluginHost) -> None:
    found = told(tmp_path, host)
    assert {s.status for s in found.steps} == {"miss"}
    assert {s.why() for s in found.steps} == {"never done"}
    assert len(found.unknown) == len(found.steps) == 18
    assert found.seconds == 0


def test_everything_is_there(tmp_path: Path, host: PluginHost) -> None:
    put_all(tmp_path, host)
    found = told(tmp_path, host)
    assert {s.status for s in found.steps} == {"hit"}
    assert (found.to_do, found.seconds, found.unknown, found.unread) == ([], 0.0, [], 0)


def test_a_setting_and_what_follows_from_it(tmp_path: Path, host: PluginHost) -> None:
    put_all(tmp_path, host)
    found = by_id(told(tmp_path, host, "pipeline.clusterer.clusters=4", "pipeline.refiner.threshold=0.25"))
    assert found["clusterer.embed[train]"].status == "hit"
    assert found["clusterer.fit"].why() == "clusterer.clusters: 3 → 4"
    assert found["clusterer.fit"].nearest.changes == (Change("clusterer.clusters", 3, 4),)
    assert found["clusterer.assign[train]"].why() == "only its inputs differ, from clusterer.fit on"
    assert found["detector.predict[eval]"].because == ("clusterer.fit",)
    assert found["refiner.refine[train]"].why() == "refiner.threshold: 0.6 → 0.25", "its own settings say more than its inputs"
    assert found["segmenter.fit"].because == ("refiner.refine[train]",)


def test_the_nearest_of_several_is_the_one_with_fewest_differences(tmp_path: Path, host: PluginHost) -> None:
    for contrast in (1.0, 2.0):
        put_all(tmp_path, host, f"pipeline.prior.contrast={contrast}")
    put_all(tmp_path, host, "pipeline.prior.contrast=3.0", "pipeline.detector.iters=60", "seed=3")
    found = by_id(told(tmp_path, host, "pipeline.prior.contrast=2.0", "pipeline.detector.iters=60"))
    assert found["prior.mine[train]"].status == "hit"
    assert found["detector.fit"].why() == "detector.iters: 6 → 60"
    assert found["detector.fit"].nearest.inputs == ()


def test_seed_plugin_images_and_versions_in_words(tmp_path: Path, host: PluginHost) -> None:
    put_all(tmp_path, host)
    assert by_id(told(tmp_path, host, "seed=8"))["clusterer.fit"].why() == "seed: 7 → 8"
    assert by_id(told(tmp_path, host, train=13))["prior.mine[train]"].why() == "other images"
    crash = by_id(told(tmp_path, host, "pipeline.prior={use: crash}"))["prior.mine[train]"]
    assert crash.why() == "prior.use: bright → crash; prior.contrast: 1.0 → not set; and 2 more"
    assert crash.seconds is None, "another plugin's time says nothing"


def test_weights_of_an_earlier_stage(tmp_path: Path, host: PluginHost) -> None:
    rounds = "pipeline={pretrainer: {use: mean, iters: 5}, prior: {use: bright, weights: 'stage:pretrainer'}, clusterer: {use: colour}, detector: {use: memory}, refiner: {use: keep}, segmenter: {use: table}}"
    put_all(tmp_path, host, rounds)
    found = by_id(told(tmp_path, host, rounds, "pipeline.pretrainer.iters=50"))
    assert found["pretrainer.fit"].why() == "pretrainer.iters: 5 → 50"
    assert found["prior.mine[train]"].why() == "only its inputs differ, from pretrainer.fit on"


def test_times_go_by_images_and_by_the_part_that_is_left(tmp_path: Path, host: PluginHost, monkeypatch: Any) -> None:
    plan, _, _ = planned(host)
    put(tmp_path, plan.step("prior.mine[train]"), seconds=3.0, images=12)
    put(tmp_path, plan.step("segmenter.fit"), seconds=7.0, images=12)
    found = by_id(told(tmp_path, host, train=120, evaluate=60))
    assert found["prior.mine[train]"].seconds == pytest.approx(30.0)
    assert found["prior.mine[eval]"].seconds == pytest.approx(15.0)
    fit = found["segmenter.fit"]
    assert (fit.seconds, fit.basis.known) == (pytest.approx(7.0), False), "nothing says how its work grows"
    assert found["detector.fit"].seconds is None
    # half of the shards are there
    monkeypatch.setenv("MDP_SHARD_SIZE", "10")
    more, _, _ = planned(host, train=120, evaluate=60)
    step = more.step("prior.mine[train]")
    entry = Store(tmp_path).entry(step.kind, step.step, step.key, step.payload)
    entry.begin()
    entry.parts.mkdir()
    (entry.folder / "shards.json").write_text('{"size": 10}')
    for n in range(6):
        (entry.parts / f"{n:05d}.parquet").write_text("part")
        entry.stamp_part(f"{n:05d}.parquet")
    half = by_id(told(tmp_path, host, train=120, evaluate=60))["prior.mine[train]"]
    assert half.why() == "unfinished, 6 of 12 shards are there"
    assert half.seconds == pytest.approx(15.0)
    monkeypatch.setenv("MDP_SHARD_SIZE", "20")
    other = by_id(told(tmp_path, host, train=120, evaluate=60))["prior.mine[train]"]
    assert (other.done, other.total) == (0, 6), "parts cut another way are of no use"


def test_the_device_of_an_estimate(tmp_path: Path, host: PluginHost) -> None:
    plan, _, _ = planned(host)
    put(tmp_path, plan.step("prior.mine[train]"), seconds=1.0, images=12, device="cuda")
    assert by_id(told(tmp_path, host, "pipeline.prior.contrast=2.0", "device=cpu"))["prior.mine[eval]"].basis.device == "cuda"
    other, _, _ = planned(host, "pipeline.prior.contrast=9.0")
    put(tmp_path, other.step("prior.mine[train]"), seconds=60.0, images=12)
    found = by_id(told(tmp_path, host, "pipeline.prior.contrast=2.0", "device=cpu"))["prior.mine[eval]"]
    assert (found.basis.device, found.seconds) == ("cpu", pytest.approx(30.0)), "a like device counts more than like settings"


def test_a_training_that_was_interrupted(tmp_path: Path, host: PluginHost) -> None:
    plan, _, _ = planned(host)
    put(tmp_path, planned(host, "seed=1")[0].step("detector.fit"), seconds=100.0)
    step = plan.step("detector.fit")
    entry = Store(tmp_path).entry(step.kind, step.step, step.key, step.payload)
    entry.begin()
    entry.work.mkdir()
    (entry.work / "state.json").write_text("[]")
    assert by_id(told(tmp_path, host))["detector.fit"].why() == "unfinished"
    lines = [json.dumps({"done": n, "total": 6, "metrics": {"loss": 1.0}}) for n in (1, 2, 3)]
    (entry.folder / "curve.jsonl").write_text("\n".join(lines) + '\n{"done": 4, "tot')
    found = by_id(told(tmp_path, host))["detector.fit"]
    assert found.why() == "unfinished, it got to 3 of 6 and goes on from its last checkpoint"
    assert found.seconds == pytest.approx(50.0)
    with FileLock(entry.lock):
        assert by_id(told(tmp_path, host))["detector.fit"].why().endswith("; another process is at it")


@pytest.mark.parametrize("harm", ["change", "remove", "manifest"])
def test_damage(tmp_path: Path, host: PluginHost, harm: str) -> None:
    plan = put_all(tmp_path, host)
    step = plan.step("prior.mine[train]")
    folder = Store(tmp_path).entry(step.kind, step.step, step.key, step.payload).folder
    if harm == "manifest":
        (folder / "manifest.json").write_text("{")
    elif harm == "remove":
        (folder / "parts" / "00000.parquet").unlink()
    else:
        (folder / "parts" / "00000.parquet").write_text("other")
    found = by_id(told(tmp_path, host))
    name = "manifest.json" if harm == "manifest" else "parts/00000.parquet"
    assert found["prior.mine[train]"].why() == f"damaged ({name}), 0 of 1 shards are there"
    assert {s.status for i, s in found.items() if i != "prior.mine[train]"} == {"hit"}, "what was made of it stays"


def test_more_than_can_be_read_in_a_moment_is_looked_for_only(
    tmp_path: Path, host: PluginHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = put_all(tmp_path, host)
    monkeypatch.setattr("mdp_core.engine.forecast._BUDGET", 0)
    step = plan.step("segmenter.fit")
    (Store(tmp_path).entry(step.kind, step.step, step.key, step.payload).folder / "result").write_text("other")
    found = told(tmp_path, host)
    assert found.unread == len(found.steps) == 18
    (Store(tmp_path).entry(step.kind, step.step, step.key, step.payload).folder / "result").unlink()
    assert by_id(told(tmp_path, host))["segmenter.fit"].status == "damaged"


REAL = "pipeline={prior: {use: dino-affinity, weights: 'builtin:tiny'}, clusterer: {use: kmeans, embed: {weights: 'builtin:tiny'}}, detector: {use: mask-rcnn}, refiner: {use: confidence}, segmenter: {use: deeplabv3, fit: {frozen_stages: -1}}}"


@pytest.mark.parametrize(
    ("override", "step", "factor"),
    [
        ("pipeline.detector.fit.iters=48000", "detector.fit", 2.0),
        ("pipeline.detector.fit.batch=4", "detector.fit", 0.25),
        ("pipeline.segmenter.fit.epochs=90", "segmenter.fit", 2.0),
        ("pipeline.segmenter.fit.size=256", "segmenter.fit", 0.25),
        ("pipeline.clusterer.restarts=5", "clusterer.fit", 0.5),
        ("seed=9", "segmenter.fit", 1.0),
    ],
)
def test_trainings_of_the_default_plugins_scale(
    tmp_path: Path, host: PluginHost, override: str, step: str, factor: float
) -> None:
    put_all(tmp_path, host, REAL, train=320)
    found = by_id(told(tmp_path, host, REAL, override, train=320))[step]
    assert found.seconds == pytest.approx(2.0 * factor)
    assert found.basis.known


def test_a_segmenter_takes_longer_with_more_images_and_iterations_do_not(tmp_path: Path, host: PluginHost) -> None:
    put_all(tmp_path, host, REAL, train=320)
    found = by_id(told(tmp_path, host, REAL, train=640))
    assert found["segmenter.fit"].seconds == pytest.approx(4.0)
    assert found["detector.fit"].seconds == pytest.approx(2.0)


def test_settings_of_a_payload(host: PluginHost) -> None:
    _, recipe, _ = planned(host, REAL)
    config = recipe.pipeline["detector"].config
    then = config_of(config, {"fit": {"iters": 7, "init": "file-sha256:00"}})
    assert then is not None
    assert then.model_dump()["fit"]["iters"] == 7
    assert then.model_dump()["fit"]["init"] == "none"
    assert config_of(config, {"fit": {"iters": "many"}}) is None
    assert config_of(config, {"unknown": 1}) is None


def test_weights_that_are_missing(tmp_path: Path, host: PluginHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    dino = "timm:vit_small_patch16_224.dino"
    wanting = (REAL, f"pipeline.prior.weights={dino}", f"pipeline.clusterer.embed.weights={dino}")
    (missing,) = told(tmp_path, host, *wanting).missing
    assert (missing.ref, missing.stages) == (dino, ("prior", "clusterer"))
    assert missing.info is not None
    assert (missing.info.here, missing.info.licence) == (False, "apache-2.0")
    assert missing.info.size == 4 * 21_665_664
    put_all(tmp_path, host, *wanting)
    assert told(tmp_path, host, *wanting).missing == (), "what is in the store needs no weights"
    assert told(tmp_path, host, *wanting, "pipeline.clusterer.clusters=9").missing == (), "nor does clustering its embeddings"
    again = told(tmp_path, host, *wanting, "pipeline.clusterer.embed.size=96").missing
    assert [m.stages for m in again] == [("clusterer",)]
    (wrong,) = told(tmp_path, host, REAL, "pipeline.prior.weights=builtin:tny").missing
    assert "did you mean builtin:tiny" in wrong.problem
