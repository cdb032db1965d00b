from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mdp_core.engine.plan import Plan, Role
from mdp_core.engine.planner import make_plan
from mdp_core.engine.scan import ImageSet
from mdp_core.errors import RecipeError
from mdp_core.plugins.loader import PluginHost, load_plugins
from mdp_core.recipe.load import load_recipe

RECIPE = str(Path(__file__).parents[2] / "toy.yaml")


@pytest.fixture(scope="module")
def host() -> PluginHost:
    return load_plugins([Path(__file__).parents[2] / "toy_method.py"])


def images(train: str = "train", evaluate: str | None = "val", truth: str | None = "truth") -> dict[Role, ImageSet]:
    found: dict[Role, ImageSet] = {"train": ImageSet(train, (), (), f"fingerprint of {train}", truth)}
    if evaluate:
        found["eval"] = ImageSet(evaluate, (), (), f"fingerprint of {evaluate}", truth)
    return found


def plan(host: PluginHost, *overrides: str, **options: Any) -> Plan:
    chosen = {name: options.pop(name) for name in ("until", "pretrain") if name in options}
    return make_plan(load_recipe(RECIPE, overrides, host, {}).recipe, host, images(**options), **chosen)


def keys(made: Plan) -> dict[str, str]:
    return {s.id: s.key for s in made.steps}


def test_all_steps_in_an_order_in_which_they_can_be_done(host: PluginHost) -> None:
    made = plan(host)
    assert [s.id for s in made.steps] == [
        "prior.mine[train]", "prior.mine[eval]", "prior.localisation[eval]",
        "clusterer.embed[train]", "clusterer.embed[eval]", "clusterer.fit", "clusterer.assign[train]", "clusterer.assign[eval]",
        "clusterer.clustering[eval]",
        "detector.fit", "detector.predict[train]", "detector.predict[eval]",
        "refiner.refine[train]", "refiner.refine[eval]", "refiner.clustering[eval]",
        "segmenter.fit", "segmenter.predict[eval]", "segmenter.clustering[eval]",
    ]  # fmt: skip
    done: set[str] = set()
    for step in made.steps:
        assert set(step.inputs.values()) <= done
        done.add(step.id)
    assert [r.title for r in made.rows] == ["prior + clusterer", "detector + refiner", "segmenter"]


def test_without_labels_nothing_is_evaluated_and_the_training_images_get_the_results(host: PluginHost) -> None:
    made = plan(host, evaluate=None)
    assert made.final_role == "train"
    assert [s.id for s in made.steps] == [
        "prior.mine[train]", "clusterer.embed[train]", "clusterer.fit", "clusterer.assign[train]", "detector.fit",
        "detector.predict[train]", "refiner.refine[train]", "segmenter.fit", "segmenter.predict[train]",
    ]  # fmt: skip


def test_two_roles_with_the_same_images_share_their_steps(host: PluginHost) -> None:
    ids = [s.id for s in plan(host, train="all", evaluate="all").steps]
    assert len(ids) == len(set(ids))
    assert "prior.mine[eval]" not in ids or "prior.mine[train]" not in ids


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("pipeline.refiner.threshold=0.7", {"refiner", "segmenter"}),
        (
            "pipeline.clusterer.clusters=4",
            {"clusterer.fit", "clusterer.assign", "clusterer.clustering", "detector", "refiner", "segmenter"},
        ),
        ("pipeline.prior.contrast=2", {"prior", "clusterer", "detector", "refiner", "segmenter"}),
        (
            "seed=8",  # evaluations repeat the seed
            {
                "clusterer.fit",
                "clusterer.assign",
                "clusterer.clustering",
                "detector",
                "refiner",
                "segmenter",
                "prior.localisation",
            },
        ),
        ("name=other", set()),
        ("device=cpu", set()),
    ],
)
def test_a_setting_changes_the_keys_that_depend_on_it_and_no_others(host: PluginHost, override: str, changed: set[str]) -> None:
    before, after = keys(plan(host)), keys(plan(host, override))
    really = {name for name in before if before[name] != after[name]}
    expected = {name for name in before if any(name.startswith(prefix) for prefix in changed)}
    assert really == expected


def test_labels_enter_the_keys_of_evaluations_alone(host: PluginHost) -> None:
    before, after = keys(plan(host)), keys(plan(host, truth="corrected"))
    assert {n for n in before if before[n] != after[n]} == {n for n in before if "clustering" in n or "localisation" in n}


def test_leaving_a_stage_out(host: PluginHost) -> None:
    made = plan(host, "pipeline.detector=null")
    assert [r.title for r in made.rows] == ["prior + clusterer", "prior + clusterer + refiner", "segmenter"]
    assert made.step("refiner.refine[train]").inputs == {"predictions": "clusterer.assign[train]"}


def test_a_second_round(host: PluginHost) -> None:
    overrides = ["pipeline.again={kind: refiner, use: keep}", "pipeline.last={kind: segmenter, use: table}"]
    made = plan(host, *overrides)
    assert made.step("again.refine[train]").inputs == {"predictions": "segmenter.predict[train]"}
    assert made.step("last.fit").inputs == {"labels": "again.refine[train]"}
    assert [r.title for r in made.rows][-2:] == ["segmenter + again", "last"]
    chosen = plan(host, *overrides, "pipeline.again.input=detector", "pipeline.again.threshold=0.5")
    assert chosen.step("again.refine[train]").inputs == {"predictions": "detector.predict[train]"}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["pipeline.clusterer=null"], r"pipeline.detector: a detector needs clustered masks, and no stage before it makes any \(prior makes masks\)"),
        (["pipeline.refiner=null"], "pipeline.segmenter: a segmenter needs label maps"),
        (["pipeline.prior=null"], "pipeline.clusterer: a clusterer needs masks .*it is the first stage"),
        (["pipeline.segmenter.input=prior"], "pipeline.segmenter needs label maps, but its input 'prior' makes masks"),
    ],
)  # fmt: skip
def test_stages_that_do_not_fit(host: PluginHost, overrides: list[str], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        plan(host, *overrides)


def test_until(host: PluginHost) -> None:
    assert {s.stage for s in plan(host, until="clusterer").steps} == {"prior", "clusterer"}
    with pytest.raises(RecipeError, match="no such stage"):
        plan(host, until="detectr")


FIRST = ("pipeline={pretrainer: {use: mean}, prior: {weights: 'stage:pretrainer'}}",)
"""A pretrainer before the prior of the toy recipe, which reads its weights."""


def test_weights_of_a_pretrainer_come_first(host: PluginHost) -> None:
    made = plan(host, *FIRST)
    assert [s.id for s in made.steps][:3] == ["pretrainer.fit", "prior.mine[train]", "prior.mine[eval]"]
    assert made.step("pretrainer.fit").inputs == {}
    assert made.step("prior.mine[eval]").inputs == {"weights:pretrainer": "pretrainer.fit"}
    assert made.step("clusterer.embed[eval]").inputs == {"instances": "prior.mine[eval]"}
    assert made.weights == {"pretrainer": "pretrainer.fit"}
    assert [r.title for r in made.rows] == ["prior + clusterer", "detector + refiner", "segmenter"]
    assert {s.id: s.key for s in plan(host).steps}.keys() | {"pretrainer.fit"} == {s.id for s in made.steps}


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("pretrainer.iters=9", {"pretrainer", "prior", "clusterer", "detector", "refiner", "segmenter"}),
        ("pretrainer.threads=9", set()),
        ("seed=8", {"pretrainer", "prior", "clusterer", "detector", "refiner", "segmenter"}),
        ("prior.contrast=2", {"prior", "clusterer", "detector", "refiner", "segmenter"}),
        ("refiner.threshold=0.7", {"refiner", "segmenter"}),
    ],
)
def test_a_training_counts_as_what_it_was_made_of(host: PluginHost, override: str, changed: set[str]) -> None:
    before, after = keys(plan(host, *FIRST)), keys(plan(host, *FIRST, override))
    really = {name for name in before if before[name] != after[name]}
    assert really == {name for name in before if name.split(".")[0] in changed}


def test_the_name_of_a_pretrainer_is_in_no_key(host: PluginHost) -> None:
    other = plan(host, "pipeline={base: {kind: pretrainer, use: mean}, prior: {weights: 'stage:base'}}")
    assert keys(other)["prior.mine[eval]"] == keys(plan(host, *FIRST))["prior.mine[eval]"]
    assert keys(other)["prior.mine[eval]"] != keys(plan(host))["prior.mine[eval]"]


ROUNDS = (
    "pipeline={pretrainer: {use: mean}, prior: {weights: 'stage:pretrainer'}, "
    "second: {kind: pretrainer, use: mean, init: 'stage:pretrainer'}, "
    "again: {kind: prior, use: bright, weights: 'stage:second'}, clusterer: {}}"
)


def test_a_prior_gives_its_masks_to_the_pretrainer_after_it(host: PluginHost) -> None:
    made = plan(host, ROUNDS)
    assert [s.id for s in made.steps if s.kind in ("pretrainer", "prior") and s.role == "train"] == [
        "pretrainer.fit", "prior.mine[train]", "second.fit", "again.mine[train]",
    ]  # fmt: skip
    assert made.step("second.fit").inputs == {"instances": "prior.mine[train]", "weights:pretrainer": "pretrainer.fit"}
    assert made.step("again.mine[train]").inputs == {"weights:second": "second.fit"}
    assert made.step("clusterer.embed[train]").inputs == {"instances": "again.mine[train]"}
    before, after = keys(made), keys(plan(host, ROUNDS, "prior.contrast=2"))
    assert before["pretrainer.fit"] == after["pretrainer.fit"]
    assert before["second.fit"] != after["second.fit"]
    late = plan(host, "pipeline.late={kind: pretrainer, use: mean}")
    assert late.step("late.fit").inputs == {"instances": "prior.mine[train]"}, "clusters and detections are no prior's masks"


def test_a_pretrainer_alone(host: PluginHost) -> None:
    others = [f"pipeline.{stage}=null" for stage in ("prior", "clusterer", "detector", "refiner", "segmenter")]
    made = plan(host, *others, "pipeline.pretrainer={use: mean}")
    assert [s.id for s in made.steps] == ["pretrainer.fit"]
    assert made.evaluations == ()


def test_only_what_the_weights_are_made_of(host: PluginHost) -> None:
    first = plan(host, ROUNDS, pretrain="pretrainer", evaluate=None)
    assert [s.id for s in first.steps] == ["pretrainer.fit"]
    second = plan(host, ROUNDS, "pipeline.second.input=prior", pretrain="second", evaluate=None)
    assert [s.id for s in second.steps] == ["pretrainer.fit", "prior.mine[train]", "second.fit"]
    assert second.outputs == {"pretrainer": "pretrainer.fit", "prior": "prior.mine[train]", "second": "second.fit"}
    assert second.weights == {"pretrainer": "pretrainer.fit", "second": "second.fit"}
    whole = keys(plan(host, ROUNDS))
    assert all(whole[s.id] == s.key for s in second.steps), "the whole recipe finds them in the store"
    behind_clusters = plan(host, "pipeline.late={kind: pretrainer, use: mean}", pretrain="late", evaluate=None)
    assert [s.id for s in behind_clusters.steps] == ["prior.mine[train]", "late.fit"]


def test_a_pretrainer_takes_masks_alone(host: PluginHost) -> None:
    with pytest.raises(RecipeError, match=r"pipeline\.late needs masks, but its input 'clusterer' makes clustered masks"):
        plan(host, "pipeline.late={kind: pretrainer, use: mean, input: clusterer}")
