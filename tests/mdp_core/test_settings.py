import hashlib
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest
from pydantic import Field, ValidationError

from mdp_core.errors import DataError, PluginError, WeightsError
from mdp_core.settings import (
    NoEffect,
    OnlyFor,
    PathRef,
    Settings,
    StageConfig,
    WeightsRef,
    file_sha256,
    files_below,
    stage_of,
    step_settings,
    weight_paths,
    weight_refs,
    weights_file,
)

STEPS = ("embed", "fit", "assign")


class Embed(Settings):
    view: str = "crop"
    batch: Annotated[int, NoEffect] = 8


class Net(Settings):
    depth: int = 18
    dropout: Annotated[float, OnlyFor("fit")] = 0.5
    workers: Annotated[int, NoEffect] | None = None


class Config(StageConfig):
    seeded_steps: ClassVar[tuple[str, ...]] = ("fit",)
    clusters: int = 20
    metric: Annotated[str, OnlyFor("fit", "assign")] = "cosine"
    threads: Annotated[int, NoEffect] = 4
    more_threads: Annotated[int, NoEffect] | None = None
    rounds: Annotated[int, OnlyFor("fit")] | None = None
    embed: Embed = Embed()
    fit: Embed | None = None
    net: Net = Net()
    nets: tuple[Net, ...] = (Net(),)
    by_name: dict[str, Net] = Field(default_factory=lambda: {"a": Net()})
    names: frozenset[str] = frozenset("abcdefgh")


def test_every_step_has_its_settings_and_no_other() -> None:
    net, fit_net = {"depth": 18}, {"depth": 18, "dropout": 0.5}
    names = list("abcdefgh")
    common = {"clusters": 20, "names": names, "net": net, "nets": [net], "by_name": {"a": net}}
    assert step_settings(Config(), "embed", STEPS) == {**common, "embed": {"view": "crop"}}
    assert step_settings(Config(), "assign", STEPS) == {**common, "metric": "cosine"}
    fit = {"net": fit_net, "nets": [fit_net], "by_name": {"a": fit_net}, "metric": "cosine", "rounds": None, "fit": None}
    assert step_settings(Config(), "fit", STEPS) == {**common, **fit}


def test_what_has_no_effect_is_in_no_key() -> None:
    slow, fast = Config(), Config(threads=1, more_threads=9, embed=Embed(batch=1), net=Net(workers=3), nets=(Net(workers=2),))
    for step in STEPS:
        assert step_settings(slow, step, STEPS) == step_settings(fast, step, STEPS)


def test_a_field_that_is_no_model_belongs_to_all_steps_whatever_its_name() -> None:
    class Plain(StageConfig):
        fit: bool = True

    assert step_settings(Plain(), "embed", STEPS) == {"fit": True}


def test_a_mark_counts_more_than_a_name() -> None:
    class Marked(StageConfig):
        embed: Annotated[Embed, OnlyFor("embed", "fit")] = Embed()

    assert "embed" in step_settings(Marked(), "fit", STEPS)
    assert "embed" not in step_settings(Marked(), "assign", STEPS)


@pytest.mark.parametrize("step", STEPS)
def test_a_mark_for_a_step_that_is_not_there_is_an_error(step: str) -> None:
    class Wrong(StageConfig):
        clusters: Annotated[int, OnlyFor("fti")] = 3

    with pytest.raises(PluginError, match=r"Wrong\.clusters is marked OnlyFor\('fti'\), but the steps are assign, embed, fit"):
        step_settings(Wrong(), step, STEPS)


class Weights(StageConfig):
    one: WeightsRef = "builtin:random"
    maybe: WeightsRef | None = None
    many: tuple[WeightsRef, ...] = ()
    named: dict[str, WeightsRef] = Field(default_factory=dict)
    note: str = "file:no weights"


def test_files_count_by_their_contents_wherever_they_are_named(tmp_path: Path) -> None:
    first, moved = tmp_path / "a.pth", tmp_path / "b.pth"
    first.write_bytes(b"weights")
    moved.write_bytes(b"weights")
    sha = f"file-sha256:{hashlib.sha256(b'weights').hexdigest()}"

    def keyed(path: Path) -> dict[str, object]:
        ref = f"file:{path}"
        config = Weights(one=ref, maybe=ref, many=(ref, "timm:x"), named={"a": ref})
        return step_settings(config, "fit", ("fit",))

    assert keyed(first) == keyed(moved)
    assert keyed(first) == {"one": sha, "maybe": sha, "many": [sha, "timm:x"], "named": {"a": sha}, "note": "file:no weights"}
    moved.write_bytes(b"others")
    assert keyed(first) != keyed(moved)
    assert file_sha256(first) == hashlib.sha256(b"weights").hexdigest()


@pytest.mark.parametrize("ref", ["vit", "http:x", "timm:", "stage:", "file:/no/such/file"])
def test_weights_that_are_none(ref: str) -> None:
    with pytest.raises(ValidationError, match=r"weights are written timm:NAME|no such file: /no/such/file"):
        Weights(one=ref)


def test_weights_of_a_stage_count_by_the_key_of_its_training() -> None:
    config = Weights(one="stage:a", maybe="stage:b", many=("timm:x", "stage:a"), named={"n": "stage:b"}, note="stage:c")
    asked = []

    def key(stage: str) -> str:
        asked.append(stage)
        return f"key of {stage}"

    assert step_settings(config, "fit", ("fit",), key) == {
        "one": "stage-key:key of a",
        "maybe": "stage-key:key of b",
        "many": ["timm:x", "stage-key:key of a"],
        "named": {"n": "stage-key:key of b"},
        "note": "stage:c",
    }
    assert set(asked) == {"a", "b"}


def test_only_the_step_that_reads_weights_asks_for_their_key() -> None:
    class Reader(Settings):
        weights: WeightsRef = "stage:a"
        cached: Annotated[WeightsRef, NoEffect] = "stage:b"

    class Two(StageConfig):
        embed: Reader = Reader()

    asked: list[str] = []
    step_settings(Two(), "fit", STEPS, lambda stage: asked.append(stage) or "")  # type: ignore[func-returns-value]
    assert asked == []
    step_settings(Two(), "embed", STEPS, lambda stage: asked.append(stage) or "")  # type: ignore[func-returns-value]
    assert asked == ["a"]


def test_where_settings_name_weights() -> None:
    class Inner(Settings):
        weights: WeightsRef = "timm:inner"

    class Outer(StageConfig):
        one: WeightsRef = "stage:a"
        none: WeightsRef | None = None
        text: str = "timm:no weights"
        inner: Inner = Inner()
        inners: tuple[Inner, ...] = (Inner(), Inner(weights="timm:second"))
        named: dict[str, WeightsRef] = Field(default_factory=lambda: {"n": "builtin:x"})

    found = dict(weight_paths(Outer()))
    assert found == {
        ("one",): "stage:a",
        ("inner", "weights"): "timm:inner",
        ("inners", 0, "weights"): "timm:inner",
        ("inners", 1, "weights"): "timm:second",
        ("named", "n"): "builtin:x",
    }
    assert list(weight_refs(Outer())) == list(found.values())
    assert [stage_of(ref) for ref in ("stage:a", "timm:stage:a")] == ["a", None]


def test_keys_do_not_depend_on_the_process() -> None:
    code = (
        "import json; from typing import *; from mdp_core.settings import *\n"
        "class C(StageConfig):\n    names: frozenset[str] = frozenset(map(str, range(50)))\n"
        "print(json.dumps(step_settings(C(), 'fit', ['fit'])))"
    )
    out = {
        subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True).stdout
        for seed in ("1", "2")
    }
    assert len(out) == 1


def test_settings_are_strangers_to_unknown_keys_and_to_change() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        Config(clustres=3)  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match="frozen"):
        Config().clusters = 3  # type: ignore[misc]


def test_a_hash_after_a_path_is_checked_and_is_in_no_key(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(b"weights")
    sha256 = hashlib.sha256(b"weights").hexdigest()
    pinned = Weights(one=f"file:{path}#sha256={sha256.upper()}")
    assert weights_file(pinned.one) == (path, sha256)
    assert weights_file("file:a#b.pth") == (Path("a#b.pth"), None)
    assert step_settings(pinned, "fit", ("fit",)) == step_settings(Weights(one=f"file:{path}"), "fit", ("fit",))
    path.write_bytes(b"others")
    with pytest.raises(WeightsError, match=rf"a\.pth: its sha256 is [0-9a-f]{{64}}, not {sha256}"):
        step_settings(pinned, "fit", ("fit",))
    with pytest.raises(ValidationError, match="expected 64 hexadecimal digits after #sha256=, got 'abc'"):
        Weights(one=f"file:{path}#sha256=abc")


class Places(StageConfig):
    uses_labels: ClassVar[str | None] = "boxes"
    place: PathRef
    maybe: PathRef | None = None
    many: tuple[PathRef, ...] = ()
    note: str = "no path"


def placed(path: Path, **other: object) -> dict[str, object]:
    return step_settings(Places(place=str(path), **other), "mine", ("mine",))


def folder_of(path: Path, **files: str) -> Path:
    for name, text in files.items():
        (path / name.replace("__", "/")).parent.mkdir(parents=True, exist_ok=True)
        (path / name.replace("__", "/")).write_text(text)
    return path


def test_a_path_counts_by_what_lies_there(tmp_path: Path) -> None:
    one, moved = tmp_path / "one.json", tmp_path / "moved.json"
    one.write_text("[1]")
    moved.write_text("[1]")
    sha = f"contents-sha256:{hashlib.sha256(b'[1]').hexdigest()}"
    keyed = placed(one, maybe=str(moved), many=(str(one), str(moved)))
    assert keyed == {"place": sha, "maybe": sha, "many": [sha, sha], "note": "no path"}
    moved.write_text("[2, 3]")
    assert placed(moved) != placed(one)
    assert "no path" not in str(step_settings(Places(place=str(one), note="another"), "mine", ("mine",)))


def test_a_folder_counts_by_the_names_and_contents_of_its_files(tmp_path: Path) -> None:
    first = folder_of(tmp_path / "a", x="1", inner__y="2")
    assert placed(first) == placed(folder_of(tmp_path / "moved", inner__y="2", x="1"))
    others = [
        folder_of(tmp_path / "changed", x="1", inner__y="3"),
        folder_of(tmp_path / "swapped", x="2", inner__y="1"),
        folder_of(tmp_path / "renamed", x="1", inner__z="2"),
        folder_of(tmp_path / "more", x="1", inner__y="2", z=""),
        folder_of(tmp_path / "less", x="1"),
        folder_of(tmp_path / "flat", x="1", y="2"),
    ]
    assert len({str(placed(folder)) for folder in [first, *others]}) == 7
    before = placed(first)
    folder_of(first, **{".DS_Store": "left behind", ".git__config": "too"})
    assert placed(first) == before
    folder_of(first, inner__y="4")
    assert placed(first) != before


def test_files_below_a_folder_follow_links_and_end(tmp_path: Path) -> None:
    elsewhere = folder_of(tmp_path / "elsewhere", b="", a="")
    folder = folder_of(tmp_path / "folder", z="", inner__c="", **{".hidden": ""})
    (folder / "linked").symlink_to(elsewhere)
    (folder / "inner" / "round").symlink_to(folder)
    assert files_below(folder) == ("inner/c", "linked/a", "linked/b", "z")
    assert files_below(tmp_path / "none") == ()


def test_paths_are_looked_for_at_home_and_when_the_recipe_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    folder_of(tmp_path / "masks", a="1")
    assert placed(Path("~/masks")) == placed(Path("masks")) == placed(tmp_path / "masks")
    with pytest.raises(ValidationError, match=r"no such file or folder: mask, did you mean masks\?"):
        Places(place="mask")
    with pytest.raises(ValidationError, match="no such file or folder"):
        Places(place="")


def test_a_path_that_vanished_or_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    config = Places(place=str(folder_of(tmp_path / "masks", a="1")))
    (tmp_path / "masks" / "a").unlink()
    (tmp_path / "masks" / "a").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"masks/a: cannot be read \(No such file or directory\)"):
        step_settings(config, "mine", ("mine",))


def test_a_plugin_may_say_by_its_settings_what_labels_it_uses(tmp_path: Path) -> None:
    class Stated(Places):
        stated: str | None = None

        def labels_used(self) -> str | None:
            return self.stated

    assert StageConfig().labels_used() is None
    assert Places(place=str(tmp_path)).labels_used() == "boxes"
    assert Stated(place=str(tmp_path)).labels_used() is None
    assert Stated(place=str(tmp_path), stated="masks by hand").labels_used() == "masks by hand"


def test_settings_for_trials_lie_below_those_given() -> None:
    class Tried(StageConfig):
        trial: ClassVar[Mapping[str, Any]] = {"embed": {"size": 32, "view": "crop"}, "clusters": 3, "sides": [48, 64]}

    assert StageConfig.trial_settings() == {}
    assert Tried.trial_settings() == Tried.trial
    given = {"embed": {"size": 64}, "sides": [96], "more": {"a": 1}}
    expected = {"embed": {"size": 64, "view": "crop"}, "clusters": 3, "sides": [96], "more": {"a": 1}}
    assert Tried.trial_settings(given) == expected
    Tried.trial_settings()["embed"]["size"] = 1
    assert Tried.trial["embed"]["size"] == 32
    assert Tried.trial_settings({"embed": None})["embed"] is None
