"""A small catalogue of plugins in memory, and a recipe for it."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, field_validator, model_validator

from mdp_core.errors import PluginError, WeightsError
from mdp_core.recipe import InvalidRecipeError, LoadedRecipe, RecipeText, load_recipe
from mdp_core.settings import NoEffect, OnlyFor, Settings, StageConfig, WeightsRef


class VocConfig(StageConfig):
    root: Path
    train: str = "trainaug"
    eval: str | None = "val"
    on_bad_image: Literal["skip", "error"] = "skip"


class ShapesConfig(StageConfig):
    train: str = "train"
    images: int = Field(100, ge=1)


class AffinityConfig(StageConfig):
    weights: str = "builtin:random"
    topk: float = Field(0.4, le=1)
    short_side: int = Field(640, ge=32, le=4096)
    scales: tuple[Annotated[float, Field(gt=0)], ...] = (1.0,)
    batch: Annotated[int, NoEffect] = Field(8, ge=1)

    @field_validator("weights")
    @classmethod
    def _known(cls, value: str) -> str:
        if ":" not in value:
            raise ValueError("weights are written timm:NAME, file:PATH or builtin:NAME")
        return value


class LostConfig(StageConfig):
    weights: WeightsRef = "builtin:random"
    more: tuple[WeightsRef, ...] = ()
    seeds: int = Field(100, ge=1)


class DinoConfig(StageConfig):
    init: WeightsRef | None = None


class EmbedSettings(Settings):
    view: Literal["masked-crop", "crop"] = "masked-crop"
    size: int | None = Field(None, ge=32)


class KMeansConfig(StageConfig):
    clusters: int = Field(20, ge=2)
    embed: EmbedSettings = EmbedSettings()
    range: tuple[int, int] = (0, 1)
    init: int | Literal["random", "k-means++"] = "k-means++"

    @model_validator(mode="after")
    def _range(self) -> KMeansConfig:
        if self.range[0] > self.range[1]:
            raise ValueError("range is written lowest first")
        return self


class FitSettings(Settings):
    iters: int = Field(24000, ge=1)
    lr: float = Field(0.01, gt=0)
    amp: bool = False
    mm_overrides: dict[str, Any] = Field(default_factory=dict)


class MaskRcnnConfig(StageConfig):
    arch: Literal["r50-c4", "r18-fpn"]
    fit: FitSettings = FitSettings()
    seed: Annotated[int, OnlyFor("fit")] = 0


class ConfidenceConfig(StageConfig):
    threshold: float = Field(0.9, ge=0, le=1)


class CrfConfig(StageConfig):
    rounds: int = Field(10, ge=1)
    names: dict[str, str] = Field(default_factory=dict)


class SegmenterConfig(StageConfig):
    weights: str = "none"
    fit: FitSettings = FitSettings()

    @field_validator("weights")
    @classmethod
    def _there(cls, value: str) -> str:
        if value == "file:gone":
            raise WeightsError("no such weights: gone", hint="download them")
        return value


class MlflowConfig(StageConfig):
    uri: str | None = None


PLUGINS: dict[tuple[str, str], type[StageConfig] | str] = {
    ("dataset", "voc"): VocConfig,
    ("dataset", "shapes"): ShapesConfig,
    ("pretrainer", "dino"): DinoConfig,
    ("prior", "dino-affinity"): AffinityConfig,
    ("prior", "lost"): LostConfig,
    ("prior", "broken"): "prior:broken from mdp-broken 1.0: broken:X cannot be imported (ImportError: no module named nothing)",
    ("clusterer", "kmeans"): KMeansConfig,
    ("detector", "mask-rcnn"): MaskRcnnConfig,
    ("refiner", "confidence"): ConfidenceConfig,
    ("refiner", "dense-crf"): CrfConfig,
    ("segmenter", "deeplabv3"): SegmenterConfig,
    ("observer", "mlflow"): MlflowConfig,
}


class ToyCatalogue:
    """Catalogue, in the manner of the plugin host."""

    def names(self, kind: str) -> list[str]:
        return sorted(name for k, name in PLUGINS if k == kind)

    def config(self, kind: str, name: str) -> type[StageConfig]:
        found = PLUGINS.get((kind, self.resolve_alias(kind, name)))
        if found is None:
            names = self.names(kind)
            close = difflib.get_close_matches(name, names, 1)
            guess = f", did you mean '{close[0]}'?" if close else ""
            raise PluginError(f"no {kind} named '{name}'{guess}", hint=f"there are: {', '.join(names)}")
        if isinstance(found, str):
            raise PluginError(found)
        return found

    def default(self, kind: str) -> str | None:
        return {"prior": "dino-affinity", "clusterer": "kmeans", "detector": "mask-rcnn", "refiner": "confidence"}.get(kind)

    def resolve_alias(self, kind: str, name: str) -> str:
        return {("prior", "dino"): "dino-affinity", ("dataset", "pascal"): "voc"}.get((kind, name), name)


@pytest.fixture
def catalogue() -> ToyCatalogue:
    return ToyCatalogue()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory with a folder ``recipes``."""
    (tmp_path / "recipes").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def load(catalogue: ToyCatalogue) -> Callable[..., LoadedRecipe]:
    """Loads a text as recipes/toy.yaml."""

    def load_text(text: str, *overrides: str, **environ: str) -> LoadedRecipe:
        return load_recipe(RecipeText(text, "recipes/toy.yaml", Path("recipes")), overrides, catalogue, environ)

    return load_text


@pytest.fixture
def mistakes(load: Callable[..., LoadedRecipe]) -> Callable[..., list[str]]:
    """Loads a text that has mistakes, and returns their lines."""

    def lines(text: str, *overrides: str, **environ: str) -> list[str]:
        with pytest.raises(InvalidRecipeError) as caught:
            load(text, *overrides, **environ)
        assert caught.value.message.split("\n")[1:] == [f"  {p}" for p in caught.value.problems]
        return [str(p) for p in caught.value.problems]

    return lines


@pytest.fixture
def toy() -> str:
    """A recipe without mistakes."""
    return TOY


TOY = """\
name: toy
data: {use: shapes}
pipeline:
  prior: {topk: 0.3}
  clusterer: {clusters: 5, embed: {view: crop}}
  detector: {arch: r18-fpn, fit: {iters: 10, mm_overrides: {model: {depth: 18}}}}
  refiner: {threshold: 0.8}
  segmenter: {use: deeplabv3}
evaluate: [clustering]
"""
