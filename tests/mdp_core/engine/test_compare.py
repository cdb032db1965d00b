"""Groups, columns, statistics and warnings of a comparison, against literal computations."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from mdp_core.data.storage import write_json
from mdp_core.engine.compare import compare, curves, is_share, paired, summarise
from mdp_core.engine.comparison_table import as_table, latex_escaped, to_csv, to_json, to_latex, to_markdown
from mdp_core.engine.record import RunRecord, StepRecord
from mdp_core.errors import RunError

RECIPE: dict[str, Any] = {
    "name": "pascal",
    "description": "",
    "seed": 1,
    "device": "auto",
    "data": {"use": "voc", "root": "VOC"},
    "pipeline": {
        "prior": {"kind": "prior", "use": "dino-affinity", "input": None, "topk": 0.4, "weights": "builtin:tiny", "batch": 8},
        "refiner": {"kind": "refiner", "use": "confidence", "input": None, "threshold": 0.9},
    },
    "evaluate": ["clustering"],
    "observers": [],
}
finite = st.floats(-1e3, 1e3)


def settings(**changes: Any) -> dict[str, Any]:
    """The recipe with changes: ``prior__topk=0.2``; None removes a stage."""
    tree: dict[str, Any] = json.loads(json.dumps(RECIPE))
    for name, value in changes.items():
        path = name.split("__")
        place = tree if path[0] in tree else tree["pipeline"]
        for part in path[:-1]:
            place = place[part]
        if value is None and len(path) == 1:
            del place[path[-1]]
        else:
            place[path[-1]] = value
    return tree


class Runs:
    """Records of finished runs, written to disk and read again."""

    def __init__(self, home: Path) -> None:
        self.home, self.count = home, 0

    def __call__(
        self, seed: int, metrics: Mapping[str, float], resolved: Mapping[str, Any] | None = None, **more: Any
    ) -> RunRecord:
        self.count += 1
        folder = self.home / "runs" / f"20260101-{self.count:06d}-pascal-{self.count:04x}"
        folder.mkdir(parents=True)
        tree = {**(resolved or RECIPE), "seed": seed}
        images = {"train": {"fingerprint": "aa" * 16}, "eval": {"fingerprint": "bb" * 16}}
        defaults = {"status": "finished", "images": images, "started": f"2026-01-01T00:00:{self.count:02d}"}
        RunRecord(folder, "pascal", seed, "r.yaml", [], tree, {}, metrics=dict(metrics), **{**defaults, **more}).save()
        return RunRecord.read(folder)


@pytest.fixture
def make(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


@given(st.lists(finite, min_size=2, max_size=12))
def test_mean_and_sample_std(values: list[float]) -> None:
    found = summarise(values)
    assert found is not None and found.std is not None
    assert found.mean == pytest.approx(np.mean(values), abs=1e-9)
    literal = math.sqrt(sum((v - sum(values) / len(values)) ** 2 for v in values) / (len(values) - 1))
    assert found.std == pytest.approx(literal, abs=1e-6)
    assert found.n == len(values)


def test_one_value_has_no_std_and_none_has_no_mean() -> None:
    assert summarise([0.5]) is not None and summarise([0.5]).std is None  # type: ignore[union-attr]
    assert summarise([]) is None


@given(st.dictionaries(st.integers(0, 9), finite, min_size=1), st.dictionaries(st.integers(0, 9), finite, min_size=1))
def test_paired_differences_over_common_seeds(ours: dict[int, float], base: dict[int, float]) -> None:
    found = paired(ours, base)
    differences = np.array([ours[s] - base[s] for s in range(10) if s in ours and s in base])
    if not len(differences):
        assert found is None
        return
    assert found is not None
    assert found.n == len(differences)
    assert found.mean == pytest.approx(differences.mean(), abs=1e-9)
    if len(differences) == 1:
        assert found.std is found.low is found.high is None
        return
    assert found.std == pytest.approx(differences.std(ddof=1), abs=1e-6)
    error = differences.std(ddof=1) / np.sqrt(len(differences))
    if error > 1e-6:
        low, high = scipy.stats.t.interval(0.95, len(differences) - 1, differences.mean(), error)
        assert (found.low, found.high) == pytest.approx((low, high), rel=1e-6, abs=1e-6)


def test_the_interval_by_hand() -> None:
    """Three pairs, 1, 2 and 6: mean 3, std √7, t(0.975; 2) = 4.302652729911275 from a printed table."""
    found = paired({1: 11.0, 2: 22.0, 3: 36.0, 9: 0.0}, {1: 10.0, 2: 20.0, 3: 30.0, 8: 5.0})
    assert found is not None and found.low is not None and found.high is not None and found.std is not None
    assert (found.mean, found.n) == (3.0, 3)
    assert found.std**2 == pytest.approx(7.0)
    half = 4.302652729911275 * math.sqrt(7.0) / math.sqrt(3.0)
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half))


def test_pairing_removes_what_seeds_have_in_common() -> None:
    """Seeds that shift both alike leave no spread, however far apart they are."""
    found = paired({1: 0.2, 2: 0.5, 3: 0.9}, {1: 0.1, 2: 0.4, 3: 0.8})
    assert found is not None
    assert (found.mean, found.std) == (pytest.approx(0.1), pytest.approx(0.0, abs=1e-12))


def test_rows_are_runs_equal_but_for_seed_name_device_and_observers(make: Runs) -> None:
    other = settings(name="another", description="x", device="cpu", observers=[{"use": "mlflow"}])
    runs = [
        make(1, {"refiner.miou": 0.4}),
        make(2, {"refiner.miou": 0.6}, other),
        make(1, {"refiner.miou": 0.1}, settings(prior__topk=0.2)),
    ]
    found = compare(runs)
    assert [sorted(g.runs) for g in found.groups] == [[1, 2], [1]]
    assert found.columns == ("pipeline.prior.topk",)
    summary = found.summary(found.groups[0], "refiner.miou")
    assert summary is not None and (summary.mean, summary.n) == (0.5, 2)
    assert found.difference(found.groups[0], "refiner.miou") is None
    pair = found.difference(found.groups[1], "refiner.miou")
    assert pair is not None and (pair.mean, pair.n) == (pytest.approx(-0.3), 1)


def test_settings_without_effect_are_columns(make: Runs) -> None:
    found = compare([make(1, {}), make(1, {}, settings(prior__batch=16))])
    assert found.columns == ("pipeline.prior.batch",)


def test_settings_that_just_come_with_another_plugin_are_no_columns(make: Runs) -> None:
    superpixel = {"kind": "prior", "use": "superpixel", "input": None, "segments": 50, "weights": "none"}
    rows = [RECIPE, settings(prior__topk=0.2), settings(prior=superpixel), settings(refiner=None)]
    found = compare([make(1, {}, row) for row in rows])
    assert found.columns == (
        "pipeline.prior.use", "pipeline.prior.topk", "pipeline.prior.weights", "pipeline.refiner.use",
    )  # fmt: skip
    assert [row[1:-1] for row in as_table(found).rows] == [
        ("dino-affinity", "0.4", "builtin:tiny", "confidence"),
        ("dino-affinity", "0.2", "builtin:tiny", "confidence"),
        ("superpixel", "—", "none", "confidence"),
        ("dino-affinity", "0.4", "builtin:tiny", "—"),
    ]


def test_a_setting_that_a_recipe_lacks_is_a_dash(make: Runs) -> None:
    found = compare([make(1, {}, settings(prior__names={"a": 1})), make(1, {}, settings(prior__names={"b": 2}))])
    assert [row[1:-1] for row in as_table(found).rows] == [("1", "—"), ("—", "2")]
    assert as_table(found).header[1:3] == ("prior.names.a", "prior.names.b")


def test_unfinished_runs_are_named_and_left_out(make: Runs) -> None:
    runs = [make(1, {}), make(2, {}, status="failed"), make(3, {}, status="interrupted")]
    found = compare(runs)
    assert [sorted(g.runs) for g in found.groups] == [[1]]
    assert found.notes == (f"left out, not finished: {runs[1].id} (failed), {runs[2].id} (interrupted)",)
    with pytest.raises(RunError, match="none of the runs is finished"):
        compare(runs[1:])


def test_a_repeated_run_counts_once(make: Runs) -> None:
    first, second = make(1, {"refiner.miou": 0.4}), make(1, {"refiner.miou": 0.5})
    for runs in ([first, second], [second, first], [first, second, first]):
        found = compare(runs)
        assert found.groups[0].values("refiner.miou") == {1: 0.5}
        assert found.notes == (
            f"left out: {first.id}, as {second.id} is the same recipe with the same seed and newer, and its numbers are others",
        )


def test_metrics_that_are_missing_or_no_numbers_are_left_out(make: Runs) -> None:
    found = compare([make(1, {"refiner.miou": 0.4}), make(2, {"refiner.miou": math.nan}), make(3, {})])
    summary = found.summary(found.groups[0], "refiner.miou")
    assert summary is not None and (summary.mean, summary.std, summary.n) == (0.4, None, 1)
    assert as_table(found).rows[0][-1] == "40.00 (n=1)"


def test_metrics_by_name_and_pattern(make: Runs) -> None:
    names = ("prior.corloc", "refiner.miou", "refiner.iou/cat", "refiner.iou/dog", "segmenter.miou")
    run = make(1, dict.fromkeys(names, 0.5))
    assert compare([run]).metrics == ("refiner.miou", "segmenter.miou")
    assert compare([run], metrics=["miou"]).metrics == ("refiner.miou", "segmenter.miou")
    assert compare([run], metrics=["segmenter.miou", "*.iou/*", "corloc"]).metrics == (
        "segmenter.miou", "refiner.iou/cat", "refiner.iou/dog", "prior.corloc",
    )  # fmt: skip
    assert compare([run], all_metrics=True).metrics == names
    with pytest.raises(RunError, match=r"no metric 'mioo', did you mean 'miou'\?"):
        compare([run], metrics=["mioo"])


def test_the_baseline(make: Runs) -> None:
    runs = [
        make(1, {}),
        make(1, {}, settings(prior__topk=0.2)),
        make(2, {}, settings(prior__topk=0.2)),
        make(1, {}, settings(prior__topk=0.3)),
    ]
    assert [compare(runs, baseline=b).baseline for b in ("2", runs[2].id, runs[3].id[-4:], "prior.topk=0.3", "pipeline.prior.topk=0.40")] == [
        1, 1, 2, 2, 0,
    ]  # fmt: skip
    for text, message in (
        ("4", "no row is like that"),
        ("refiner.threshold=0.9", "more than one row"),
        ("prior.topkk=1", "did you mean 'prior.topk'"),
    ):
        with pytest.raises(RunError, match=message):
            compare(runs, baseline=text)


def judged(truth: str) -> dict[str, Any]:
    return {"train": {"fingerprint": "aa"}, "eval": {"fingerprint": "bb" * 16, "truth": truth}}


def evaluated(make: Runs, version: int, name: str) -> list[StepRecord]:
    folder = make.home / "store" / "evaluate-clustering" / name
    folder.mkdir(parents=True)
    write_json(folder / "key.json", {"step": "clustering", "version": version})
    return [StepRecord("r.clustering[eval]", "r", "evaluate", "clustering", "clustering", "eval", name, "done", 1.0)]


def test_what_cannot_be_compared_is_said(make: Runs) -> None:
    one = {"refiner.miou": 0.5}
    other = settings(prior__topk=0.2)
    images = {"train": {"fingerprint": "aa"}, "eval": {"fingerprint": "cc" * 16}}
    protocol = {"split": "val", "matching": "hungarian, pixels, split val", "seed": 1, "ground_truth": ["x"]}

    def rows(matching: str, seed: int) -> dict[str, Any]:
        return {"components": [{"protocol": {**protocol, "matching": matching, "seed": seed}}]}

    assert compare([make(1, one, results=rows("m", 1)), make(2, one, other, results=rows("m", 2))]).warnings == ()
    cases: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        (
            {},
            {"images": images},
            "evaluated on different images, so their numbers cannot be compared (row 1: bbbbbbbbbbbb; row 2: cccccccccccc)",
        ),
        (
            {"results": rows("hungarian", 1)},
            {"results": rows("greedy", 1)},
            "(row 1: matching: hungarian; row 2: matching: greedy)",
        ),
        (
            {"labels_used": {}},
            {"labels_used": {"refiner": "val"}},
            "differ in the labels that were used (row 1: none; row 2: refiner: val)",
        ),
        ({"images": judged("t1")}, {"images": judged("t2")}, "different ground truth"),
        (
            {"steps": evaluated(make, 1, "k3")},
            {"steps": evaluated(make, 2, "k4")},
            "different versions of the protocol",
        ),
    ]
    for first, second, words in cases:
        warnings = compare([make(1, one, **first), make(1, one, other, **second)]).warnings
        assert len(warnings) == 1
        assert words in warnings[0]
    same = compare([make(1, one, labels_used={"prior": "y"}), make(1, one, other, labels_used={"prior": "y"})])
    assert same.warnings == ("labels were used in all of the runs: prior: y",)


def test_other_images_under_the_same_settings_are_another_row(make: Runs) -> None:
    images = {"train": {"fingerprint": "dd" * 16}, "eval": {"fingerprint": "bb" * 16}}
    found = compare([make(1, {}), make(2, {}, images=images)])
    assert found.columns == ("images.train",)
    assert [row[1] for row in as_table(found).rows] == ["aaaaaaaaaaaa", "dddddddddddd"]


def test_versions_that_differ_are_noted(make: Runs) -> None:
    runs = [make(1, {}), make(2, {})]
    runs[0].environment = {"libraries": {"torch": "2.1", "numpy": "2"}, "git": {"commit": "a" * 40}}
    runs[1].environment = {"libraries": {"torch": "2.2", "numpy": "2"}, "git": {"commit": "a" * 40}}
    assert compare(runs).notes == ("the runs were made with different versions: torch 2.1 and 2.2",)


@pytest.fixture
def table(make: Runs) -> list[RunRecord]:
    """Two thresholds, three seeds and two: mIoU 0.40, 0.42, 0.47 and 0.50, 0.56."""
    low = settings(refiner__threshold=0.5)
    ours = [make(s, {"refiner.miou": m, "d.loss_a": 2.0}) for s, m in ((1, 0.40), (2, 0.42), (3, 0.47))]
    return [*ours, make(1, {"refiner.miou": 0.50}, low), make(2, {"refiner.miou": 0.56}, low)]


def test_markdown(table: list[RunRecord]) -> None:
    lines = to_markdown(compare(table, metrics=["miou", "d.loss_a"])).splitlines()
    assert lines[0] == "| # | refiner.threshold | seeds | refiner.miou % | Δ refiner.miou % | d.loss_a | Δ d.loss_a |"
    assert lines[1] == "| --- | --- | ---: | ---: | ---: | ---: | ---: |"
    # By hand: mean 0.43, std √((0.03² + 0.01² + 0.04²) / 2) = 0.0360555; 0.53 ± 0.0424264; differences 0.10 and 0.14:
    # mean 0.12, std 0.0282843, ± 12.7062 · 0.02.
    assert lines[2] == "| 1 | 0.9 | 3 | 43.00 ± 3.61 | baseline | 2 ± 0 | baseline |"
    assert lines[3] == "| 2 | 0.5 | 2 | 53.00 ± 4.24 | +12.00 ± 2.83 [-13.41, +37.41] | — | — |"
    assert "Student's t, n - 1 degrees of freedom" in lines[-1]
    assert "mean ± sample standard deviation over seeds" in lines[-2]


def test_csv_and_json_have_full_numbers(table: list[RunRecord]) -> None:
    found = compare(table)
    rows = list(csv.DictReader(io.StringIO(to_csv(found))))
    assert [(r["row"], r["pipeline.refiner.threshold"], r["seeds"]) for r in rows] == [
        ("1", "0.9", "1 2 3"),
        ("2", "0.5", "1 2"),
    ]
    assert float(rows[0]["refiner.miou mean"]) == pytest.approx(np.mean([0.40, 0.42, 0.47]), abs=1e-15)
    assert float(rows[0]["refiner.miou std"]) == pytest.approx(np.std([0.40, 0.42, 0.47], ddof=1), abs=1e-15)
    assert float(rows[1]["refiner.miou difference"]) == pytest.approx(0.12)
    assert rows[0]["refiner.miou difference"] == ""
    low, high = scipy.stats.t.interval(0.95, 1, 0.12, np.std([0.10, 0.14], ddof=1) / np.sqrt(2))
    content = json.loads(to_json(found))
    metric = content["rows"][1]["metrics"]["refiner.miou"]
    assert metric["values"] == {"1": 0.50, "2": 0.56}
    assert (metric["difference"]["low"], metric["difference"]["high"]) == pytest.approx((low, high))
    assert content["rows"][1]["runs"] == {"1": table[3].id, "2": table[4].id}
    assert content["baseline"] == 1


def test_latex_is_a_booktabs_table(table: list[RunRecord], make: Runs) -> None:
    odd = make(1, {"refiner.miou": 0.5}, settings(refiner__threshold=0.1, prior__weights="file:a_b&c%d#e{f}~^\\[g]$x"))
    text = to_latex(compare([*table, odd], metrics=["miou", "d.loss_a"]))
    body = [line for line in text.splitlines() if not line.startswith("%")]
    assert body[0] == r"\begin{tabular}{lllrrrrr}" and body[-1] == r"\end{tabular}"
    assert [line.strip() for line in body if line.strip().startswith("\\") and "rule" in line] == [
        r"\toprule",
        r"\midrule",
        r"\bottomrule",
    ]
    rows = [line for line in body if line.endswith(r"\\")]
    assert len(rows) == 4
    for row in rows:
        assert len(re.findall(r"(?<!\\)&", row)) == 7, row
        bare = re.sub(r"\\[&%#_{}$]|\\[a-z]+(\{\})?|\$[^$]*\$|\{[\[\]]\}", "", row.removesuffix(r"\\"))
        assert not re.search(r"[%#_{}$~^\\\[\]]", bare), row
    assert rows[1].strip() == r"1 & builtin:tiny & 0.9 & 3 & 43.00 $\pm$ 3.61 & baseline & 2 $\pm$ 0 & baseline \\"
    assert "{[}$-$13.41, +37.41{]}" in rows[2]
    assert r"file:a\_b\&c\%d\#e\{f\}\textasciitilde{}\textasciicircum{}\textbackslash{}{[}g{]}\$x" in rows[3]


@given(st.text(st.characters(codec="ascii", exclude_categories=["Cc"])))
def test_no_special_character_reaches_latex(text: str) -> None:
    left = re.sub(r"\\[&%#_{}$]|\\[a-z]+\{\}|\$[<>|]\$|\{\[\}|\{\]\}", "", latex_escaped(text))
    assert not re.search(r'[\\&%#_{}$~^<>|"\[\]]', left)


def test_curves_by_hand(make: Runs) -> None:
    runs = [
        make(seed, {"refiner.miou": 0.1 * t + seed * k}, settings(refiner__threshold=t, prior__topk=k))
        for k in (0.2, 0.4)
        for t in (3, 1, 2)
        for seed in (1, 2)
    ]
    first, second = curves(compare(runs), "refiner.threshold", "refiner.miou")
    assert [line.label for line in (first, second)] == ["prior.topk = 0.2", "prior.topk = 0.4"]
    assert [x for x, _ in first.points] == [1.0, 2.0, 3.0]
    for line, k in ((first, 0.2), (second, 0.4)):
        for x, summary in line.points:
            values = [0.1 * x + 1 * k, 0.1 * x + 2 * k]
            assert (summary.mean, summary.std, summary.n) == (
                pytest.approx(np.mean(values)),
                pytest.approx(np.std(values, ddof=1)),
                2,
            )


def test_what_is_no_axis(make: Runs) -> None:
    runs = [make(1, {"refiner.miou": 0.1}), make(1, {"refiner.miou": 0.2}, settings(prior__use="lost"))]
    for setting, message in (
        ("prior.use", r"pipeline.prior.use is not a number in all of these runs \(dino-affinity, lost\)"),
        ("prior.topk", "pipeline.prior.topk is 0.4 in all of these runs"),
        ("prior.topkk", r"no setting 'prior.topkk' in these runs, did you mean 'prior.topk'\?"),
    ):
        with pytest.raises(RunError, match=message):
            curves(compare(runs), setting, "refiner.miou")


def test_shares_are_known_under_every_protocol() -> None:
    shares = (
        "segmenter.miou",
        "segmenter.objects.miou",
        "detector.multi.aware.ap50",
        "clusterer.acc",
        "segmenter.iou/a.b",
        "a.majority.iou/c",
    )
    assert all(is_share(name) for name in shares)
    assert not any(is_share(name) for name in ("segmenter.loss", "seconds", "detector.images"))
