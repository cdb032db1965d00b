from __future__ import annotations

from pathlib import Path

from mdp_core.data.images import ImageRecord
from mdp_core.engine.jobs import Job, read_records, write_records


def test_a_job_survives_the_pipe() -> None:
    job = Job(
        id="prior.mine[train]", stage="prior", kind="prior", step="mine", plugin="x", settings={"a": [1, None]}, entry="/e",
        images="/i", dataset=("shapes", {"size": 3}), inputs={"model": "/m"}, seed=3, device="auto", plugin_files=("/p.py",), facts={"split": "val"},
    )  # fmt: skip
    assert "\n" not in job.to_json()
    assert Job.from_json(job.to_json()) == job


def test_records_survive_their_file(tmp_path: Path) -> None:
    records = (ImageRecord("a/b.jpg", 3, 4, "/x/a/b.jpg"), ImageRecord("ü", 1, 2))
    write_records(tmp_path / "r.json", records)
    assert read_records(tmp_path / "r.json") == records
