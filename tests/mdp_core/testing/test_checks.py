"""Each check can fail: a plugin that is wrong in one way is found by that check, and by no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdp_core.engine.plan import STEPS as ENGINE_STEPS
from mdp_core.plugins.loader import KINDS
from mdp_core.testing import check_plugin, plugin_checks
from mdp_core.testing.registry import all_checks
from mdp_core.testing.settings_checks import STEPS

WRONG = Path(__file__).parent / "wrong_plugins.py"
SAYS = {
    "builds_from_settings": ("prior", "where has no default"),
    "settings_survive_yaml": ("prior", "share became something else"),
    "settings_are_documented": ("prior", "no text says what share does"),
    "settings_fit_a_recipe": ("prior", "another meaning for input"),
    "declares_what_keys_need": ("prior", "'mien', which is no step of a prior, did you mean 'mine'?"),
    "declares_what_keys_need_version": ("prior", "cache_version is 0"),
    "pickles": ("prior", "its settings cannot be pickled"),
    "works_on_scenes": ("prior", "RuntimeError: nothing works here"),
    "one_result_an_image": ("prior", "it yielded 7 results for 8 images"),
    "one_result_an_image_of_its_size": ("prior", "scene-3: a result of 48×64 for an image of 64×48"),
    "finds_something": ("prior", "no mask in any of the scenes"),
    "masks_are_not_empty": ("prior", "scene-2: mask 0 of 1 has no pixel"),
    "boxes_lie_in_the_image": ("prior", "scene-2: box 0 is"),
    "scores_are_shares": ("prior", "scene-2: a score is nan"),
    "scores_are_shares_in_float32": ("prior", "scene-2: scores are float64"),
    "labels_are_in_range": ("prior", "scene-2: a label is 0"),
    "same_seed_same_result": ("prior", "scene-0: scores differ"),
    "batches_do_not_matter": ("prior", "scene-0: scores differ by up to 0.875"),
    "works_in_a_new_process": ("prior", "a new process makes something else: scene-0"),
    "survives_tiny_images": ("prior", "it fails on the image 1x1: IndexError"),
    "survives_plain_images": ("prior", "it fails on the image black: ValueError: no two pixels differ"),
    "survives_large_images": ("prior", "it fails on the image scene-90: MemoryError"),
    "survives_no_images": ("prior", "it fails on no images: ValueError"),
    "inputs_are_left_alone": ("prior", "scene-0: it wrote into what it was given"),
    "the_process_is_left_alone": ("prior", "it changed the state of np.random"),
    "prints_nothing": ("prior", "'mining scene-0'"),
    "no_runtime_warnings": ("prior", "invalid value encountered"),
    "stays_on_its_device": ("prior", ""),
    "embeddings_are_vectors": ("clusterer", "scene-2: embeddings are float64"),
    "fit_writes_into_its_folders_alone": ("clusterer", "training.log"),
    "predicting_leaves_the_model_alone": ("clusterer", "prediction changed cache"),
    "models_can_be_moved": ("clusterer", "it cannot predict from a moved folder"),
    "label_maps_are_right": ("refiner", "scene-2: a pixel is 9"),
    "interrupted_trainings_resume": ("detector", "scene-0: scores differ"),
    "leaves_equal_weights": ("pretrainer", "left other weights"),
    "lists_its_images": ("dataset", "train: bad id 'a'"),
    "reads_its_images": ("dataset", "a: float32 (20, 30, 3)"),
    "ground_truth_is_right": ("dataset", "a: a pixel is 7, with 2 class names"),
    "unknown_splits_are_named": ("dataset", "KeyError"),
    "does_all_tasks": ("executor", "task 2 of 3 was not done"),
    "tells_of_failed_tasks": ("executor", "returned although a task failed"),
    "hooks_are_known": ("observer", "mdp_run_finishd, did you mean 'mdp_run_finished'?"),
}


@pytest.mark.parametrize("name", SAYS)
def test_exactly_this_check_fails(name: str) -> None:
    kind, says = SAYS[name]
    report = check_plugin(name.replace("_", "-"), kind=kind, plugin_files=[WRONG])
    assert [r.name for r in report.failures] == [next(c for c in plugin_checks(kind) if name.startswith(c))], str(report)
    (failure,) = report.failures
    assert says in failure.message
    assert failure.remedy
    assert failure.demand.endswith(".")
    assert failure.trace


def test_heavy_imports_are_found_with_their_place(tmp_path: Path) -> None:
    file = tmp_path / "heavy.py"
    file.write_text(f"import sys\n\nimport matplotlib\n\nexec(compile(open({str(WRONG)!r}).read(), {str(WRONG)!r}, 'exec'))\n")
    report = check_plugin("prior:right", plugin_files=[file])
    (failure,) = report.failures
    assert failure.name == "imports_nothing_heavy"
    assert f"imports matplotlib, at {file}:3" in failure.message


@pytest.mark.parametrize(
    ("name", "skipped"), [("prior:right", 1), ("clusterer:right-clusterer", 1), ("dataset:right-dataset", 0)]
)
def test_nothing_is_found_in_what_is_right(name: str, skipped: int) -> None:
    report = check_plugin(name, plugin_files=[WRONG])
    assert report.ok, str(report)
    assert sum(r.outcome == "skipped" for r in report.results) <= skipped


def test_every_check_is_tested_and_says_what_it_demands_and_why() -> None:
    names = set(all_checks())
    assert names == {next(c for c in names if name.startswith(c)) for name in SAYS} | {"imports_nothing_heavy"}
    assert all(": " in c.demand or ", and" in c.demand for c in all_checks().values()), [c.name for c in all_checks().values()]
    assert all(plugin_checks(kind) for kind in KINDS)


def test_the_steps_are_those_of_the_engine() -> None:
    assert dict(STEPS) == dict(ENGINE_STEPS)


def test_what_a_training_leaves_behind_lands_in_nobodys_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_plugin("clusterer:fit-writes-into-its-folders-alone", plugin_files=[WRONG])
    assert not list(tmp_path.iterdir())
    assert Path.cwd() == tmp_path
