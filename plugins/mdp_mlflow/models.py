"""Stores the final segmenter of a run as an MLflow model, complete with all that loading it elsewhere needs."""

from __future__ import annotations

import json
import logging
import re
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdp_core.api import (
    MdpError,
    OnlyFor,
    Plugin,
    PluginHost,
    RegistryFile,
    StageConfig,
    file_sha256,
    weight_paths,
    weights_file,
)
from mdp_mlflow.names import tag_value
from mdp_mlflow.store import OpenStore
from mdp_mlflow.tags import payload

NAME = "segmenter"
_NEEDED = (
    "mdp-platform", "mlflow", "numpy", "pillow", "safetensors", "torch", "torchvision", "timm", "onedl-mmcv", "onedl-mmengine",
    "onedl-mmdetection", "onedl-mmsegmentation", "opencv-python",
)  # fmt: skip


@dataclass(frozen=True)
class Trained:
    """The final segmenter of a run.

    Attributes:
        folder: What its fit left.
        key: Key of the fit.
        plugin: Its registration; settings: its settings, JSON-ready.
        classes: Cluster → name of the class that it was matched with.
        clusters: Number of clusters.
    """

    folder: Path
    key: str
    plugin: Plugin
    config: StageConfig
    settings: Mapping[str, Any]
    classes: Mapping[int, str]
    clusters: int


def fit_of_segmenter(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Returns the step of a finished run that trained its final segmenter, or None where there is none."""
    fits = [s for s in record.get("steps", ()) if (s["kind"], s["step"]) == ("segmenter", "fit")]
    return fits[-1] if fits and record.get("status") == "finished" else None


def find_trained(folder: Path, record: Mapping[str, Any]) -> Trained | None:
    """Returns the final segmenter of a finished run, or None where there is none.

    Raises:
        MdpError: Its plugin is not here any more, or is another than the one that trained it.
    """
    step = fit_of_segmenter(record)
    if step is None:
        return None
    entry = folder.parents[1] / "store" / "segmenter-fit" / step["key"]
    if not (entry / "manifest.json").is_file():
        return None
    host = PluginHost(RegistryFile(), plugin_files(folder, record))
    plugin = host.plugin("segmenter", step["plugin"])
    trained_by = payload(folder, step)["plugin"]
    if plugin.identity != trained_by["code"]:
        raise MdpError(f"{plugin.distribution} has changed since it trained the segmenter: the model is not stored")
    section = record["resolved"]["pipeline"][step["stage"]]
    settings = {name: value for name, value in section.items() if name not in ("kind", "use", "input")}
    clusters = json.loads((entry / "manifest.json").read_text(encoding="utf-8"))["clusters"]
    config = host.config("segmenter", step["plugin"])
    usable = _of_prediction(config, settings)
    model, key = _chosen(entry / "result", step, record)
    return Trained(model, key, plugin, config.model_validate(usable), usable, _classes(record, step["stage"]), clusters)


def _chosen(model: Path, fit: Mapping[str, Any], record: Mapping[str, Any]) -> tuple[Path, str]:
    """Returns the state of the training that predicts, and the key of what decided on it: a choice by labels, or else the training."""
    choices = [s for s in record["steps"] if (s["stage"], s["step"]) == (fit["stage"], "select")]
    if not choices:
        return model, fit["key"]
    choice = model.parents[2] / "segmenter-select" / choices[-1]["key"] / "result" / "choice.json"
    return model / json.loads(choice.read_text(encoding="utf-8"))["folder"], choices[-1]["key"]


def plugin_files(folder: Path, record: Mapping[str, Any]) -> list[Path]:
    """Returns the one-file plugins of a run: the copies that its folder keeps, which a later edit does not change."""
    try:
        kept = json.loads((folder / "plugins" / "plugins.json").read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError):
        return [Path(file) for file in record.get("plugin_files", ())]
    return [folder / file["copy"] for file in kept]


def known_model(store: OpenStore, key: str) -> str | None:
    """Returns the id of the model that the experiment has of a training already, or None."""
    found = store.client.search_logged_models([store.experiment], f"tags.`mdp.key` = '{key}'")
    return next((m.model_id for m in found if str(m.status) == "READY"), None)


def log_model(store: OpenStore, run_id: str, trained: Trained, record: Mapping[str, Any]) -> str:
    """Stores the model as an output of its run.

    Returns:
        The model's id; it is loaded from ``models:/<id>``.

    Raises:
        MlflowException, OSError: The store does not take it.
    """
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model
    from mlflow.pyfunc import save_model

    client = store.client
    tags = {"mdp.key": trained.key, "mdp.run": record["id"], "mdp.plugin": trained.plugin.name}
    params = {name: tag_value(value) for name, value in trained.settings.items() if not isinstance(value, dict | list)}
    model = client.create_logged_model(store.experiment, NAME, run_id, tags, params, "segmentation")
    status = "FAILED"
    try:
        with tempfile.TemporaryDirectory(prefix="mdp-") as temporary, warnings.catch_warnings(record=True):
            logging.getLogger("mlflow").setLevel(logging.ERROR)  # both would like an example image
            save_model(
                f"{temporary}/mlflow",
                python_model=str(Path(__file__).with_name("model.py")),
                artifacts={NAME: str(lay_out(trained, record, Path(temporary) / NAME))},
                pip_requirements=requirements(trained.plugin, record),
                metadata={
                    "mdp_run": record["id"],
                    "mdp_key": trained.key,
                    "classes": {str(c): n for c, n in trained.classes.items()},
                },
                mlflow_model=Model(artifact_path=model.artifact_location, run_id=run_id, model_id=model.model_id),
            )
            client.log_model_artifacts(model.model_id, f"{temporary}/mlflow")
        status = "READY"
    finally:
        client.finalize_logged_model(model.model_id, status)
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
    return str(model.model_id)


def lay_out(trained: Trained, record: Mapping[str, Any], target: Path) -> Path:
    """Copies the model and the files that it needs into a folder, and says in ``segmenter.json`` what they are.

    Returns:
        The folder.
    """
    shutil.copytree(trained.folder, target / "model")
    settings = json.loads(json.dumps(trained.settings))
    for path, ref in weight_paths(trained.config):
        if ref.startswith(("file:", "stage:")):
            source = _source(ref, trained, record)
            name = f"weights/{file_sha256(source)[:16]}{source.suffix}"
            (target / "weights").mkdir(exist_ok=True)
            shutil.copyfile(source, target / name)
            place: Any = settings
            for part in path[:-1]:
                place = place[part]
            place[path[-1]] = f"beside:{name}"
    files = []
    if trained.plugin.content:
        shutil.copyfile(trained.plugin.distribution, target / Path(trained.plugin.distribution).name)
        files.append(Path(trained.plugin.distribution).name)
    facts = {
        "format": 1, "plugin": trained.plugin.name, "plugin_files": files, "settings": settings, "run": record["id"],
        "key": trained.key, "clusters": trained.clusters, "classes": trained.classes,
    }  # fmt: skip
    (target / "segmenter.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return target


def requirements(plugin: Plugin, record: Mapping[str, Any]) -> list[str]:
    """Returns pip requirements: what mdp needs to predict, and the plugin's own package; versions as they were in the run."""
    versions = dict(record.get("environment", {}).get("libraries", {}))
    names = [name for name in _NEEDED if name in versions]
    if not plugin.content and plugin.distribution not in names:
        names.append(plugin.distribution)
        versions[plugin.distribution] = plugin.version
    # What stands after the + (cpu, cu126) is of one index alone.
    return [f"{name}=={re.sub(r'[+].*', '', versions[name])}" for name in names]


def _source(ref: str, trained: Trained, record: Mapping[str, Any]) -> Path:
    """Returns the file of weights that the segmenter reads when it predicts; those of a stage lie in the store."""
    if ref.startswith("file:"):
        return weights_file(ref)[0]
    home = trained.folder.parents[3]
    return home / str(record["results"]["weights"][ref.removeprefix("stage:")]["file"])


def _of_prediction(config: type[StageConfig], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings without those that only the fit knows: initial weights need not be where the model is loaded.

    ``checkpoint`` goes too: the state is chosen.
    """
    fields = {name: field for name, field in config.model_fields.items() if name in settings}
    kept = {}
    for name, field in fields.items():
        only = {step for mark in field.metadata if isinstance(mark, OnlyFor) for step in mark.steps}
        if (name in ("fit", "checkpoint") or (only and "predict" not in only)) and not field.is_required():
            continue
        kept[name] = settings[name]
    return kept


def _classes(record: Mapping[str, Any], stage: str) -> dict[int, str]:
    """Returns cluster → the class it was matched with, of the run's own evaluation of the segmenter."""
    own = [c for c in record.get("results", {}).get("components", ()) if c["stage"] == stage]
    pairs = zip(own[0]["class_names"], own[0]["cluster_of_class"], strict=True) if own else ()
    return {int(cluster): name for name, cluster in pairs if cluster is not None}
