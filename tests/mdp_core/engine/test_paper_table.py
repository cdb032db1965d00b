"""Rows of the paper's tables found in runs by what their stages are, statistics over seeds, warnings, and every format."""

from __future__ import annotations

import csv
import io
import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from mdp_core.engine.paper_table import PaperTable, fill
from mdp_core.engine.paper_table_text import as_grid, to_csv, to_json, to_latex, to_markdown
from mdp_core.engine.published import published
from mdp_core.engine.record import RunRecord
from mdp_core.errors import RunError

from .paper_runs import CRF, PASCAL, PROBE, PaperRuns, instances, semantic


@pytest.fixture
def make(tmp_path: Path) -> PaperRuns:
    return PaperRuns(tmp_path)


def table(name: str, *runs: RunRecord) -> PaperTable:
    return fill(name, published(), runs)


def cells(filled: PaperTable) -> dict[str, tuple[str, ...]]:
    """Label of each row → its numbers as people read them."""
    grid = as_grid(filled)
    return {row[0]: row[grid.texts :] for row in grid.rows if len(row) > 1 and row[0]}


def changed(stages: dict[str, dict[str, Any]], stage: str, **settings: Any) -> dict[str, dict[str, Any]]:
    return {**stages, stage: {**stages[stage], **settings}}


def test_means_over_seeds_beside_the_paper(make: PaperRuns) -> None:
    shares = [0.39, 0.41, 0.44]
    runs = [
        make(PASCAL, {"clusterer": semantic(0.3), "refiner": semantic(s), "segmenter": semantic(s + 0.1)}, seed=n)
        for n, s in enumerate(shares)
    ]
    found = table("pascal-components", *runs)
    values = [100 * semantic(s).miou for s in shares]
    assert cells(found)["+ Mask R-CNN"] == ("42.0", f"{statistics.fmean(values):.1f} ± {statistics.stdev(values):.1f}", "3")
    assert cells(found)["Self-sup. vision transformer"] == ("39.0", f"{100 * semantic(0.3).miou:.1f} ± 0.0", "3")
    assert found.warnings == ()
    assert any(
        "1,449 images of split val; labels became classes by: hungarian, pixels, split val; no dense CRF" in n
        for n in found.notes
    )
    assert any("checkpoint: last; seeds 0, 1, 2; ground truth was used for: " in n for n in found.notes)
    assert any(n.startswith("weights: prior timm:vit_small_patch16_224.dino sha256:abab") for n in found.notes)


def test_a_single_run_has_no_deviation(make: PaperRuns) -> None:
    assert "±" not in cells(table("pascal-components", make(PASCAL, {"refiner": semantic(0.4)})))["+ Mask R-CNN"][1]


def test_stages_are_found_by_what_they_are(make: PaperRuns) -> None:
    names = {"prior": "a", "clusterer": "b", "detector": "c", "refiner": "d", "segmenter": "e"}
    renamed = {names[n]: {"kind": n, **s, **({"after": names[s["after"]]} if "after" in s else {})} for n, s in PASCAL.items()}
    run = make(renamed, {"d": semantic(0.4), "e": semantic(0.5), "b": semantic(0.3)})
    ours = cells(table("pascal-components", run))
    assert [row[1] != "–" for row in ours.values()] == [True, True, True, False]


def test_boxes_grabcut_and_crf_have_rows_of_their_own(make: PaperRuns) -> None:
    shapes = {p: {"kind": "refiner", "use": "keep", "after": "detector", "pixels": p} for p in ("box", "grabcut", "mask")}
    stages = {**{k: v for k, v in PASCAL.items() if k != "refiner"}, **shapes, **CRF}
    stages["segmenter"] = {**PASCAL["segmenter"], "after": "mask"}
    shares = {
        "clusterer": 0.2,
        "box": 0.25,
        "grabcut": 0.3,
        "mask": 0.35,
        "segmenter": 0.4,
        "crf": 0.45,
        "again": 0.47,
        "last": 0.5,
    }
    results = {s: semantic(v, dense_crf=s in ("crf", "last")) for s, v in shares.items()}
    grid = as_grid(table("pascal-components-extended", make(stages, results)))
    ours = {row[0]: row[2] for row in grid.rows if len(row) > 1}
    expected = {
        "Self-sup. vision transformer": "clusterer", "+ Mask R-CNN (bbox)": "box", "+ GrabCut": "grabcut",
        "+ Mask R-CNN (mask)": "mask", "+ Segmentation model": "segmenter", "+ CRF, one round": "crf",
        "+ CRF, after two rounds": "last",
    }  # fmt: skip
    assert ours == {label: f"{100 * results[stage].miou:.1f}" for label, stage in expected.items()}


def test_boxes_do_not_count_as_masks(make: PaperRuns) -> None:
    run = make(changed(PASCAL, "refiner", pixels="box"), {"refiner": semantic(0.4), "segmenter": semantic(0.5)})
    found = table("pascal-components", run)
    assert [row[1] for row in cells(found).values()] == ["–"] * 4
    assert any("no run has confident masks of the detector" in text for text in found.lacks)


def test_training_without_hard_pixels_is_another_row(make: PaperRuns) -> None:
    with_, without = make(PASCAL, {"segmenter": semantic(0.5)}), changed(PASCAL, "segmenter", fit={"hard_pixels": 1.0})
    ours = cells(table("pascal-components", with_, make(without, {"segmenter": semantic(0.4)})))
    assert ours["+ Segmentation model"][1] == f"{100 * semantic(0.5).miou:.1f}"
    assert ours["+ Segmentation model, without hard pixel mining"][:2] == ("45.5", f"{100 * semantic(0.4).miou:.1f}")


def test_protocols_side_by_side(make: PaperRuns) -> None:
    both = {"clustering": semantic(0.5), "clustering-objects": semantic(0.4)}
    found = table("pascal-components", make(PASCAL, {"segmenter": both}))
    grid = as_grid(found)
    assert grid.header[1:] == ("val mIoU, paper", "val mIoU, ours", "val mIoU, ours, matched on training objects", "seeds")
    assert cells(found)["+ Segmentation model"][1:3] == tuple(f"{100 * r.miou:.1f}" for r in both.values())


def test_a_majority_is_not_the_papers_matching(make: PaperRuns) -> None:
    found = table("pascal-components", make(PASCAL, {"segmenter": {"clustering-majority": semantic(0.5)}}))
    assert cells(found)["+ Segmentation model"][1].endswith(" *")
    assert "“many to one” several clusters may stand for one class" in found.warnings[0]


def test_the_linear_classifier_and_clustering_stand_in_one_row(make: PaperRuns) -> None:
    run = make(
        {**PASCAL, **CRF, **PROBE},
        {
            "segmenter": semantic(0.4), "crf": semantic(0.42, dense_crf=True), "last": semantic(0.45, dense_crf=True),
            "probe": {"probe": semantic(0.6, probe=True)}, "smooth": {"probe": semantic(0.65, probe=True, dense_crf=True)},
        },
    )  # fmt: skip
    found = table("pascal-segmentation", run)
    ours = cells(found)
    miou = {share: f"{100 * semantic(share).miou:.1f}" for share in (0.4, 0.42, 0.45, 0.6, 0.65)}
    assert ours["MaskDistill"] == ("58.7", miou[0.6], "45.8", miou[0.4], "1")
    assert ours["MaskDistill + CRF, one round"] == ("–", "–", "–", miou[0.42], "1")
    assert ours["MaskDistill + CRF"] == ("62.8", miou[0.65], "48.9", miou[0.45], "1")
    assert ours["SwAV"] == ("50.7", "–", "4.4", "–", "–")
    assert any("probe: learns from labels" in note for note in found.notes)
    assert not found.warnings


def test_classes_as_lines(make: PaperRuns) -> None:
    result = semantic(0.5)
    found = table("pascal-classes", make(PASCAL, {"segmenter": result}))
    grid = as_grid(found)
    assert grid.header[1:4] == ("MaskContrast, paper", "MaskDistill, paper", "MaskDistill, ours")
    assert len(grid.rows) == 22
    ours = {row[0]: row[3] for row in grid.rows}
    assert ours["tv"] == f"{100 * (result.iou[20] or 0):.1f}"
    assert ours["mIoU"] == f"{100 * result.miou:.1f}"


def test_instances_in_all_settings(make: PaperRuns) -> None:
    run = make(PASCAL, inst={"clusterer": instances(0.1), "detector": instances(0.2)})
    content = json.loads(to_json(table("voc-instances", run)))
    found = {(n["part"][:3], n["row"], n["column"]): n["ours"][0]["mean"] for n in content["numbers"] if n["ours"]}
    assert len(found) == 18
    assert found["(a)", "MaskDistill, Mask R-CNN", "AP50"] == pytest.approx(20.0)
    assert found["(e)", "MaskDistill, Mask R-CNN", "AP50"] == pytest.approx(21.0)
    assert found["(c)", "MaskDistill, initial masks", "AP"] == pytest.approx(13.0 / 2)
    lines = as_grid(table("voc-instances", run)).rows
    assert ("DINO", "6.7", "–", "1.9", "–", "0.6", "–", "–") in lines
    assert any(
        "(c) MaskDistill, initial masks" in n and "single object: largest box IoU" in n
        for n in table("voc-instances", run).notes
    )


def test_instances_matched_on_objects_have_columns_of_their_own(make: PaperRuns) -> None:
    run = make(PASCAL, inst={"detector": instances(0.2)}, inst_objects={"detector": instances(0.1)})
    grid = as_grid(table("voc-instances", run))
    assert grid.header[1:4] == ("AP50, paper", "AP50, ours", "AP50, ours, matched on training objects")
    row = next(row for row in grid.rows if row[0] == "MaskDistill, Mask R-CNN")
    assert row[1:4] == ("24.3", "20.0", "10.0")


def test_another_dataset_is_marked(make: PaperRuns) -> None:
    names = ("background", "cat", "dog")
    stages = {name: {**stage, "notes": {"weights": "builtin:tiny sha256:ff"}} for name, stage in PASCAL.items()}
    found = table("pascal-components", make(stages, {"segmenter": semantic(0.5, images=284, names=names)}))
    warning = " ".join(found.warnings)
    assert (
        "evaluated on 284 images of another set; the paper's is segmentation val of PASCAL VOC 2012 (1,449 images)" in warning
    )
    assert "2 clusters, the paper has 20" in warning
    assert "prior started from builtin:tiny, the paper's from DINO ViT-S/16" in warning
    assert "segmenter started from builtin:tiny, the paper's from ResNet-50 of MoCo" in warning
    assert cells(found)["+ Segmentation model"][1].endswith(" *")
    assert "**Warning:** not comparable" in to_markdown(found)
    assert "% WARNING: not comparable" in to_latex(found)


def test_fewer_images_of_the_same_set_are_marked(make: PaperRuns) -> None:
    found = table("pascal-components", make(PASCAL, {"segmenter": semantic(0.5, images=1448)}))
    assert (
        "evaluated on 1,448 images (split val); the paper's segmentation val of PASCAL VOC 2012 has 1,449" in found.warnings[0]
    )


def test_coco_is_told_by_its_number_of_classes(make: PaperRuns) -> None:
    names = [f"class {n}" for n in range(81)]
    good = make(PASCAL, inst={"detector": instances(0.2, images=19817, names=names, clusters=80)})
    assert table("coco20k-instances", good).warnings == ()
    assert "of another set" in table("coco20k-instances", make(PASCAL, inst={"detector": instances(0.2)})).warnings[0]


def test_what_is_missing_and_how_to_add_it(make: PaperRuns) -> None:
    half = {name: PASCAL[name] for name in ("prior", "clusterer")}
    lacks = table("pascal-components", make(half, {"clusterer": semantic(0.3)})).lacks
    assert lacks[0] == "+ Mask R-CNN: no run has predictions of the detector; add a detector after the clusterer"
    lacks = table("voc-instances", make(PASCAL, {"segmenter": semantic(0.4)})).lacks
    assert lacks[0].startswith("(a) DINO: no run has masks of DINO's attention; add the prior")
    own = next(line for line in lacks if line.startswith("(a) MaskDistill, initial masks"))
    assert "object masks with cluster labels: not evaluated with the protocol instances" in own
    assert "evaluate: [instances]" in own


def test_other_priors_fill_the_rows_of_the_baselines(make: PaperRuns) -> None:
    def run(use: str, share: float) -> RunRecord:
        stages = {**PASCAL, "prior": {"kind": "prior", "use": use, "notes": PASCAL["prior"]["notes"]}}
        return make(stages, inst={"clusterer": instances(share)})

    content = json.loads(to_json(table("voc-instances", run("affinity", 0.3), run("dino-attention", 0.1), run("lost", 0.2))))
    found = {
        n["row"]: n["ours"][0]["mean"] for n in content["numbers"] if n["ours"] and n["part"][:3] + n["column"] == "(a)AP50"
    }
    assert found == pytest.approx({"DINO": 10.0, "LOST": 20.0, "MaskDistill, initial masks": 30.0})


def test_lines_of_one_row_are_told_apart_by_their_settings(make: PaperRuns) -> None:
    runs = [
        make(changed(PASCAL, "prior", topk=topk), {"clusterer": semantic(topk), "segmenter": semantic(0.5)}, seed=seed)
        for topk in (0.2, 0.4)
        for seed in (1, 2)
    ]
    found = table("pascal-components", *runs)
    grid = as_grid(found)
    assert grid.header[1] == "settings"
    assert [row[1] for row in grid.rows[:2]] == ["prior.topk = 0.2", "prior.topk = 0.4"]
    assert [row[-1] for row in grid.rows[:2]] == ["2", "2"]
    assert grid.rows[1][0] == ""


def test_what_comes_later_in_the_pipeline_does_not_split_a_row(make: PaperRuns) -> None:
    """Two thresholds share the clusterer: one line there, two behind the refiner."""
    runs = [
        make(changed(PASCAL, "refiner", threshold=t), {"clusterer": semantic(0.3), "refiner": semantic(t)}) for t in (0.5, 0.9)
    ]
    found = table("pascal-components", *runs)
    assert [len(row.lines) for row in found.rows] == [1, 2, 0, 0]
    assert found.rows[0].lines[0].seeds == 1


def test_a_number_that_some_seeds_lack(make: PaperRuns) -> None:
    both = {"clustering": semantic(0.5), "clustering-objects": semantic(0.4)}
    runs = [make(PASCAL, {"segmenter": both}, seed=1), make(PASCAL, {"segmenter": semantic(0.6)}, seed=2)]
    assert cells(table("pascal-components", *runs))["+ Segmentation model"][2].endswith("(n=1)")


def test_the_newer_of_two_runs_with_one_seed_counts(make: PaperRuns) -> None:
    old, new = (make(PASCAL, {"segmenter": semantic(s)}) for s in (0.4, 0.5))
    found = table("pascal-components", new, old)
    assert cells(found)["+ Segmentation model"][1] == f"{100 * semantic(0.5).miou:.1f}"
    assert any(f"left out: {old.id}, as {new.id} is newer" in note for note in found.notes)


def test_a_figure_is_a_table_of_its_setting(make: PaperRuns) -> None:
    runs = [
        make(changed(PASCAL, "refiner", threshold=t), {"refiner": semantic(t - 0.3), "segmenter": semantic(t - 0.2)}, seed=s)
        for t in (0.9, 0.5, 0.7)
        for s in (0, 1)
    ]
    found = table("figure-threshold", *runs)
    grid = as_grid(found)
    assert grid.header == ("threshold", "mIoU, confident masks", "mIoU, segmentation model", "seeds")
    assert [row[0] for row in grid.rows] == ["0.5", "0.7", "0.9 (the paper’s choice)"]
    assert grid.rows[0][1:] == (f"{100 * semantic(0.2).miou:.1f} ± 0.0", f"{100 * semantic(0.3).miou:.1f} ± 0.0", "2")
    assert found.warnings == ()
    assert "prints no numbers" in " ".join(grid.lines)
    rows = list(csv.DictReader(io.StringIO(to_csv(found))))
    assert {row["settings"] for row in rows} == {"threshold = 0.5", "threshold = 0.7", "threshold = 0.9"}


def test_the_figure_of_the_prior_reads_localisation(make: PaperRuns) -> None:
    half = {name: PASCAL[name] for name in ("prior", "clusterer")}
    runs = [
        make(
            changed(half, "prior", topk=k), {"clusterer": semantic(0.3)},
            localisation={"prior": {"images": 9, "hit": k / 2, "corloc": k / 4, "masks": 12}},
        )
        for k in (0.2, 0.4)
    ]  # fmt: skip
    found = table("figure-topk", *runs)
    assert [row[1:3] for row in as_grid(found).rows] == [("10.0", "5.0"), ("20.0", "10.0")]
    assert any("evaluate: [instances]" in text for text in found.lacks)


def test_csv_and_json_hold_every_digit(make: PaperRuns) -> None:
    runs = [make(PASCAL, {"segmenter": semantic(s)}, seed=n) for n, s in enumerate((0.41, 0.432))]
    found = table("pascal-components", *runs)
    values = [100 * semantic(s).miou for s in (0.41, 0.432)]
    row = next(r for r in csv.DictReader(io.StringIO(to_csv(found))) if r["row"] == "+ Segmentation model")
    assert float(row["mean"]) == pytest.approx(statistics.fmean(values), abs=1e-12)
    assert float(row["std"]) == pytest.approx(statistics.stdev(values), abs=1e-12)
    assert (row["published"], row["source"], row["protocol"], row["seeds"]) == ("45.8", "Table 1", "clustering", "0 1")
    one = json.loads(to_json(found))["numbers"][2]
    assert [s["value"] for s in one["ours"][0]["seeds"].values()] == pytest.approx(values)
    assert [s["run"] for s in one["ours"][0]["seeds"].values()] == [r.id for r in runs]
    last = json.loads(to_json(found))["numbers"][3]
    assert (last["published"], last["source"], last["ours"]) == (45.5, "Section 4.2, text", [])


def test_latex_is_escaped(make: PaperRuns) -> None:
    runs = [
        make(changed(PASCAL, "prior", weights="a_b%"), {"clusterer": semantic(0.3)}),
        make(PASCAL, {"clusterer": semantic(0.3)}),
    ]
    runs.append(make(changed(PASCAL, "prior", weights="c&d"), {"clusterer": semantic(0.3)}))
    text = to_latex(table("pascal-components", *runs))
    body = text[text.index(r"\toprule") :]
    assert r"prior.weights = a\_b\%" in body
    assert r"prior.weights = c\&d" in body
    assert "–" not in body
    parts = to_latex(table("voc-instances", make(PASCAL, inst={"detector": instances(0.2)})))
    assert r"\multicolumn{8}{l}{(c) single object} \\" in parts


def test_runs_that_cannot_fill_a_table(make: PaperRuns) -> None:
    with pytest.raises(RunError, match=r"is not finished \(failed\)"):
        table("pascal-components", make(PASCAL, {"segmenter": semantic(0.4)}, status="failed"))
    with pytest.raises(RunError, match="has no results: nothing was evaluated") as caught:
        table("pascal-components", make(PASCAL))
    assert "evaluate: [clustering]" in str(caught.value.hint)
    with pytest.raises(RunError, match="did you mean 'figure-topk'"):
        table("figure-top")


def test_results_of_before_protocols_had_names(make: PaperRuns) -> None:
    run = make(PASCAL, {"segmenter": semantic(0.4)})
    for row in run.results["components"]:
        del row["protocol_name"]
    assert cells(table("pascal-components", run))["+ Segmentation model"][1] == f"{100 * semantic(0.4).miou:.1f}"


def test_probes_of_other_networks_fill_their_rows(make: PaperRuns) -> None:
    fit = {"fit": {"lr": 0.1}}
    stages: dict[str, dict[str, Any]] = {
        "moco": {"kind": "probe", "use": "linear", "features": "file:/w/MoCo_v2.pth", **fit},
        "swav": {"kind": "probe", "use": "linear", "features": "timm:resnet50.swav", **fit},
        "nearest": {"kind": "probe", "use": "knn", "features": "file:/w/infomin.pth"},
    }
    found = table("pascal-segmentation", make(stages, {s: {"probe": semantic(0.3, probe=True)} for s in stages}))
    ours = cells(found)
    assert [ours[row][1] != "–" for row in ("MoCo", "SwAV", "InfoMin")] == [True, True, False]
    assert not [text for text in found.lacks if text.startswith("InfoMin")]
    assert any("which features of the other methods" in note for note in found.notes)


def test_a_figure_leaves_out_stages_without_its_setting(make: PaperRuns) -> None:
    other = {**PASCAL, "prior": {"use": "superpixel"}}
    found = table("figure-topk", make(other, {"clusterer": semantic(0.3)}))
    assert as_grid(found).rows[0][1:] == ("–", "–", "–", "–", "–")
    assert any(text.endswith("the stages behind it have no setting topk") for text in found.lacks)
