"""Which stages stand behind a stage: told from the store, never from ids."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdp_core.data.storage import write_json
from mdp_core.engine.lineage import Lineage
from mdp_core.engine.record import RunRecord, StepRecord
from mdp_core.errors import RunError


def run(home: Path, steps: dict[str, tuple[str, ...]], outputs: dict[str, str]) -> RunRecord:
    """A run of steps, each with the steps that its key was made of."""
    folder = home / "runs" / "r"
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for name, inputs in steps.items():
        stage, step = name.partition("[")[0].split(".")
        made.append(StepRecord(name, stage, "k", step, "p", "eval", f"key of {name}", "done", 1.0))
        write_json(home / "store" / f"k-{step}" / f"key of {name}" / "key.json", {"inputs": {i: f"key of {i}" for i in inputs}})
    pipeline = {
        s: {"kind": s.rstrip("2"), "use": "p", "input": None, "fit": {"lr": 1, "a": {"b": 2}}, "empty": {}} for s in outputs
    }
    record = RunRecord(folder, "r", 0, "r.yaml", [], {"pipeline": pipeline}, {}, steps=made, outputs=outputs)
    record.save()
    return RunRecord.read(folder)


STEPS: dict[str, tuple[str, ...]] = {
    "prior.mine[train]": (),
    "prior.mine[eval]": (),
    "clusterer.embed[train]": ("prior.mine[train]",),
    "clusterer.embed[eval]": ("prior.mine[eval]",),
    "clusterer.fit": ("clusterer.embed[train]",),
    "clusterer.assign[train]": ("clusterer.fit", "prior.mine[train]", "clusterer.embed[train]"),
    "clusterer.assign[eval]": ("clusterer.fit", "prior.mine[eval]", "clusterer.embed[eval]"),
    "detector.fit": ("clusterer.assign[train]",),
    "detector.predict[eval]": ("detector.fit",),
}
OUTPUTS = {"prior": "prior.mine[eval]", "clusterer": "clusterer.assign[eval]", "detector": "detector.predict[eval]"}


def test_a_chain_goes_through_fits_back_to_the_first_stage(tmp_path: Path) -> None:
    lineage = Lineage(run(tmp_path, STEPS, OUTPUTS))
    assert lineage.chain("detector") == ("prior", "clusterer", "detector")
    assert lineage.parent("prior") is None
    assert lineage.stages() == ("prior", "clusterer", "detector")


def test_a_stage_that_shares_its_steps_with_another(tmp_path: Path) -> None:
    lineage = Lineage(run(tmp_path, STEPS, {**OUTPUTS, "detector2": "detector.predict[eval]"}))
    assert lineage.chain("detector2") == ("prior", "clusterer", "detector2")
    assert lineage.kind("detector2") == "detector"


def test_settings_by_dotted_name(tmp_path: Path) -> None:
    lineage = Lineage(run(tmp_path, STEPS, OUTPUTS))
    assert lineage.settings("prior") == {"fit.lr": 1, "fit.a.b": 2, "empty": {}}
    assert lineage.plugin("prior") == "p"


def test_a_store_that_is_gone_is_an_error_for_people(tmp_path: Path) -> None:
    record = run(tmp_path, STEPS, OUTPUTS)
    (tmp_path / "store" / "k-fit" / "key of detector.fit" / "key.json").unlink()
    with pytest.raises(RunError, match="nobody can tell which stage"):
        Lineage(record).chain("detector")
