"""What a recipe's ``evaluate:``, probes, the choice of a checkpoint by labels and supporting images add to a plan and a run."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mdp_core.data.label_map import LabelMap
from mdp_core.engine.plan import Plan, Role
from mdp_core.engine.planner import make_plan
from mdp_core.engine.scan import ImageSet
from mdp_core.errors import RecipeError
from mdp_core.evaluation.confusion import Confusion
from mdp_core.evaluation.matching import match
from mdp_core.evaluation.semantic import class_ious
from mdp_core.plugins.loader import PluginHost, load_plugins
from mdp_core.recipe.load import load_recipe

TESTS = Path(__file__).parents[2]
RECIPE, TOY = str(TESTS / "toy.yaml"), str(TESTS / "toy_method.py")
STAGES = ("prior", "clusterer", "detector", "refiner", "segmenter")
ALL = "evaluate=[clustering, clustering-objects, clustering-majority, clusters, instances, instances-objects, localisation]"
PROBE = ("pipeline.probe={use: names}", "pipeline.polished={kind: refiner, use: keep, input: probe}")
BY_LABELS = ("pipeline.segmenter.snapshots=4", "pipeline.segmenter.checkpoint=best-on-labels")
Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def host() -> PluginHost:
    return load_plugins([Path(TOY)])


def plan(host: PluginHost, *overrides: str, without_labels: tuple[Role, ...] = (), support: bool = False) -> Plan:
    roles: list[Role] = ["train", "eval", *(["support"] if support else [])]  # type: ignore[list-item]
    images = {role: ImageSet(role, (), (), f"images of {role}", None if role in without_labels else "truth") for role in roles}
    return make_plan(load_recipe(RECIPE, overrides, host, {}).recipe, host, images)


def run(mdp: Call, folder: Path, *overrides: str) -> dict[str, Any]:
    sets = [text for override in overrides for text in ("--set", override)]
    done = mdp("run", RECIPE, "--plugin", TOY, "--no-track", *sets)
    assert done.returncode == 0, done.stderr
    return json.loads((max((folder / ".mdp" / "runs").iterdir()) / "run.json").read_text())


def test_each_protocol_scores_what_it_can(host: PluginHost) -> None:
    found = [(row.protocol, row.stage) for row in plan(host, ALL).evaluations]
    clustered = ["clusterer", "refiner", "segmenter"]
    for protocol in ("clustering", "clustering-objects", "clustering-majority"):
        assert [stage for p, stage in found if p == protocol] == clustered
    assert [stage for p, stage in found if p == "clusters"] == ["clusterer"]
    for protocol in ("instances", "instances-objects"):
        assert [s for p, s in found if p == protocol] == ["clusterer", "detector"], "the prior's masks are the clusterer's"
    assert [stage for p, stage in found if p == "localisation"] == ["prior", "detector"]
    alone = plan(host, *(f"pipeline.{s}=null" for s in STAGES[1:]), "evaluate=[instances]")
    assert [(row.protocol, row.stage) for row in alone.evaluations] == [("localisation", "prior"), ("instances", "prior")]


def test_matching_on_objects_reads_the_training_split(host: PluginHost) -> None:
    made = plan(host, ALL)
    step = made.step("segmenter.clustering-objects[eval]")
    assert step.inputs == {"predictions": "segmenter.predict[eval]", "objects": "clusterer.clusters[train]"}
    assert made.step("clusterer.clusters[train]").payload["truth"] == "truth"
    with pytest.raises(RecipeError, match="evaluate: clusters reads the ground truth of split 'train', which has none"):
        plan(host, ALL, without_labels=("train",))


def test_a_probe_alone_is_given_labels_and_nothing_learns_from_it(host: PluginHost) -> None:
    made = plan(host, *PROBE, "pipeline.last={kind: segmenter, use: table}")
    assert made.step("probe.fit").inputs == {"model": "segmenter.fit"}
    assert made.step("probe.fit").payload["truth"] == "truth"
    assert [step.id for step in made.steps if "truth" in step.payload and step.kind != "evaluate"] == ["probe.fit"]
    assert made.step("last.fit").inputs == {"labels": "segmenter.predict[train]"}, "true classes are no pseudo labels"
    assert made.probes == {"probe", "polished"}
    assert [(r.title, r.protocol) for r in made.rows][-3:] == [
        ("segmenter + probe", "probe"),
        ("segmenter + probe + polished", "probe"),
        ("last", "clustering"),
    ]
    assert "probe" in made.labels_used
    assert made.stages_behind("last.clustering[eval]") & made.probes == frozenset()
    with pytest.raises(RecipeError, match=r"pipeline\.probe: probe 'names' needs the labels of split 'train', which has none"):
        plan(host, *PROBE, without_labels=("train",))
    with pytest.raises(
        RecipeError, match=r"pipeline\.probe: a probe needs the network of a segmenter, and there is none before it"
    ):
        plan(host, *PROBE, "pipeline.segmenter=null")
    alone = plan(host, "pipeline.probe={use: names, network: false}", *(f"pipeline.{s}=null" for s in STAGES))
    assert [step.id for step in alone.steps] == ["probe.fit", "probe.predict[eval]", "probe.probe[eval]"]


def test_a_run_with_all_protocols(mdp: Call, tmp_path: Path) -> None:
    record = run(mdp, tmp_path, ALL, *PROBE)
    results, metrics = record["results"], record["metrics"]
    names = [(c["title"], c["protocol_name"]) for c in results["components"]]
    assert ("segmenter", "clustering-majority") in names
    assert names[-1] == ("segmenter + probe + polished", "probe")
    probe = results["components"][-1]["protocol"]
    assert probe["matching"] == "none, labels are classes"
    assert "probe: it learns from the class maps of the training split" in probe["ground_truth"]
    plain = next(c for c in results["components"] if (c["stage"], c["protocol_name"]) == ("segmenter", "clustering"))
    assert not any("probe" in use for use in plain["protocol"]["ground_truth"]), "only what stands behind the row"
    objects = next(c for c in results["components"] if c["protocol_name"] == "clustering-objects")
    assert objects["protocol"]["matching"] == "hungarian, objects, split train"
    assert set(results["instances"]) == {"clusterer", "detector"}
    assert {"clusterer.acc", "segmenter.objects.miou", "segmenter.majority.miou", "probe.miou"} <= set(metrics)
    assert {"detector.multi.aware.ap50", "detector.objects.multi.aware.ap50", "detector.corloc"} <= set(metrics)
    folder = tmp_path / ".mdp" / "runs" / record["id"]
    assert "| segmenter" in (folder / "components.md").read_text()
    for name in ("instances.md", "instances.csv", "clusters.md"):
        assert (folder / name).stat().st_size > 0
    shown = [LabelMap.from_png(file).values for file in sorted((folder / "label_maps").rglob("*.png"))]
    assert max(int(values.max()) for values in shown) <= 3, (
        "label maps of the method, with its three clusters, not those of the probe"
    )
    page = mdp("report", "last", "-o", "page.html")
    assert page.returncode == 0, page.stderr
    text = (tmp_path / "page.html").read_text()
    assert "Instances: multi-object, class-aware" in text
    assert "Clusters and true classes" in text


def test_labels_choose_the_checkpoint_only_where_they_are_asked_to(mdp: Call, tmp_path: Path, host: PluginHost) -> None:
    assert "segmenter.select[eval]" not in {s.id for s in plan(host, "pipeline.segmenter.snapshots=4").steps}
    with pytest.raises(RecipeError, match="there is nothing to choose from, as the training keeps no snapshots"):
        plan(host, "pipeline.segmenter.checkpoint=best-on-labels")
    with pytest.raises(RecipeError, match="needs the labels of split 'eval', which has none"):
        plan(host, *BY_LABELS, without_labels=("eval",))

    last = run(mdp, tmp_path, "pipeline.segmenter.snapshots=4")
    chosen = run(mdp, tmp_path, *BY_LABELS)
    statuses = {step["id"]: step["status"] for step in chosen["steps"]}
    assert statuses["segmenter.fit"] == "hit", "the choice does not train again"
    places = chosen["places"]
    model = tmp_path / ".mdp" / "store" / places["segmenter.fit"] / "result"
    choice = json.loads((tmp_path / ".mdp" / "store" / places["segmenter.select[eval]"] / "result" / "choice.json").read_text())
    assert sorted(choice["miou"]) == ["image 004", "image 008", "image 012", "last"]
    assert choice["state"] == max(reversed(list(choice["miou"])), key=lambda name: choice["miou"][name])
    for state, folder in (("last", model), ("image 004", model / "snapshots" / "004")):
        assert choice["miou"][state] == pytest.approx(directly(folder, host))
    assert chosen["metrics"]["segmenter.miou"] == pytest.approx(max(choice["miou"].values()))
    assert last["metrics"]["segmenter.miou"] == pytest.approx(choice["miou"]["last"])
    protocols = [run["results"]["components"][-1]["protocol"] for run in (last, chosen)]
    assert [p["checkpoint"] for p in protocols] == ["last", "best of its snapshots"]
    assert any("choosing the checkpoint" in use for use in protocols[1]["ground_truth"])
    assert "chosen by mIoU on the labels" in chosen["labels_used"]["segmenter"]
    assert last["labels_used"] == {}


def directly(folder: Path, host: PluginHost) -> float:
    """mIoU of a state of the toy's segmenter on the eval split, without the engine."""
    from mdp_core.stages.base import Context

    settings = load_recipe(RECIPE, (), host, {}).recipe.data.config.model_dump(mode="json")
    dataset = host.create("dataset", "shapes", settings, Context())
    table, confusion = np.load(folder / "table.npy"), Confusion(3, len(dataset.class_names))
    from mdp_core.data.images import ImageRecord

    for source in dataset.sources("val"):
        record = ImageRecord(source.id, 48, 48, None)
        r, g, b = (dataset.read(record)[..., c].astype(int) // 32 for c in range(3))
        confusion.add(record.id, LabelMap(table[r * 64 + g * 8 + b]), dataset.label_map(record))
    present = [iou for iou in class_ious(confusion, match(confusion)) if iou is not None]
    return sum(present) / len(present)


def test_supporting_images_reach_the_clusterer_and_the_detector_alone(host: PluginHost) -> None:
    made, without = plan(host, support=True), plan(host)
    assert made.step("clusterer.fit").inputs == {
        "embeddings": "clusterer.embed[train]",
        "embeddings:support": "clusterer.embed[support]",
    }
    assert made.step("detector.fit").inputs == {
        "labels": "clusterer.assign[train]",
        "labels:support": "clusterer.assign[support]",
    }
    assert [s.id for s in made.steps if s.role == "support"] == [
        "prior.mine[support]", "clusterer.embed[support]", "clusterer.assign[support]",
    ]  # fmt: skip
    assert made.step("segmenter.fit").inputs == {"labels": "refiner.refine[train]"}
    half = plan(host, "pipeline.detector.support=false", support=True)
    assert set(half.step("detector.fit").inputs) == {"labels"}
    assert half.step("clusterer.fit").key == made.step("clusterer.fit").key != without.step("clusterer.fit").key


def test_a_run_with_supporting_images(mdp: Call, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    done = mdp("run", RECIPE, "--plugin", TOY, "--no-track", "--set", "data.support=val", env={"MDP_TOY_TRACE": str(trace)})
    assert done.returncode == 0, done.stderr
    fits = [line.split()[1] for line in trace.read_text().splitlines() if line.startswith("fit-clusters")]
    plain = tmp_path / "plain"
    mdp("run", RECIPE, "--plugin", TOY, "--no-track", env={"MDP_TOY_TRACE": str(plain)})
    alone = [line.split()[1] for line in plain.read_text().splitlines() if line.startswith("fit-clusters")]
    assert int(fits[0]) == int(alone[0]) + 6, "one mask of each of the six images more"
    gone = mdp("run", RECIPE, "--plugin", TOY, "--no-track", "--set", "data.support=tset")
    assert gone.returncode == 1
    assert "error: data.support: " in gone.stderr
    assert "or do without supporting images: --set data.support=null" in gone.stderr
    same = mdp("run", RECIPE, "--plugin", TOY, "--no-track", "--set", "data.support=train")
    assert same.returncode == 1
    assert "data.support: every image of split 'train' is in the training split too" in same.stderr


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("pipeline.prior.support=true", "only a clusterer or a detector can learn from data.support, this is a prior"),
        ("pipeline.detector.support=yes please", "expected true or false, got 'yes please'"),
    ],
)
def test_support_where_it_means_nothing(mdp: Call, override: str, words: str) -> None:
    assert words in mdp("plan", RECIPE, "--plugin", TOY, "--set", override).stderr


def test_a_crf_needs_the_probabilities_of_its_input(host: PluginHost) -> None:
    crf = ("pipeline.segmenter={use: deeplabv3, arch: r18}", "pipeline.crf={kind: refiner, use: dense-crf}")
    with pytest.raises(RecipeError, match="dense-crf needs the probabilities of 'segmenter', which keeps none") as caught:
        plan(host, *crf)
    assert caught.value.hint == "set pipeline.segmenter.predict.probabilities: true, or pipeline.crf.unary: labels"
    after = "pipeline.after={kind: refiner, use: keep, input: crf}"
    made = plan(host, *crf, "pipeline.segmenter.predict.probabilities=true", after)
    facts = {row.stage: made.step(row.step).facts["dense_crf"] for row in made.rows}
    assert facts == {"clusterer": False, "refiner": False, "segmenter": False, "crf": True, "after": True}
