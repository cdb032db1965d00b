import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mdp_core.api import BACKBONE, Context, StageError
from mdp_mmengine.checkpoints import newest
from mdp_mmengine.launch import Place
from mdp_pretrain.bank import ImageBank
from mdp_pretrain.log import LOG_NAME, read_log
from mdp_pretrain.schedule import image_order, learning_rate
from mdp_pretrain.settings import DinoConfig
from mdp_pretrain.trainer import Trainer, precision_of

CPU = torch.device("cpu")


def trainer(small, config: DinoConfig, work: Path, *, world: int = 1, count: int = 10, listener=None) -> Trainer:
    images, instances = small.scenes(count)
    context = Context(3, "cpu", listener or small.Recorder())
    bank = ImageBank(images, instances, side=config.image_side, memory=config.memory, workers=1, context=context)
    work.mkdir(exist_ok=True)
    return Trainer(config, bank, context, Place(0, world, CPU), work)


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in (folder / LOG_NAME).open()]


# --- schedules and order


def test_the_learning_rate_rises_and_falls(small) -> None:
    config = small.settings(train={"iters": 101, "lr": 0.8, "lr_end": 0.1, "warmup": 0.1, "weight_decay": (0.1, 0.3)})
    rates = [learning_rate(config, iteration) for iteration in range(101)]
    assert rates[0] == pytest.approx(0.08) and rates[9] == pytest.approx(0.8) and rates[10] == pytest.approx(0.8)
    assert rates[100] == pytest.approx(0.1)
    assert rates[55] == pytest.approx(0.45)
    for iteration in range(10, 101):
        literal = 0.1 + 0.7 * (1 + math.cos(math.pi * (iteration - 10) / 90)) / 2
        assert rates[iteration] == pytest.approx(literal)
    assert [learning_rate(small.settings(train={"iters": 1, "warmup": w}), 0) for w in (0.0, 0.5)] == [0.0005, 0.0005]


def test_an_epoch_shows_each_image_once() -> None:
    order = image_order(10, 4, seed=5)
    seen = torch.cat([order(iteration) for iteration in range(15)])
    epochs = seen.view(6, 10)
    assert all(sorted(epoch.tolist()) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 6
    later = image_order(10, 4, seed=5)
    assert torch.equal(later(13), order(13)) and torch.equal(later(2), order(2)), "without what went before"
    assert not torch.equal(image_order(10, 4, seed=6)(0), order(0))
    assert sorted(image_order(3, 7, seed=0)(0).tolist()[:3]) == [0, 1, 2], "a batch may be larger than the set"


# --- resuming


@pytest.fixture(scope="module")
def undisturbed(small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.fit(tmp_path_factory.mktemp("undisturbed"), small.settings())


@pytest.mark.parametrize("stop", [1, 2, 5, 6])
def test_a_training_that_was_stopped_ends_as_an_undisturbed_one(small, undisturbed: Path, tmp_path: Path, stop: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        small.fit(tmp_path, small.settings(), listener=small.Recorder(stop=stop))
    assert not list((tmp_path / "result").iterdir())
    second = small.Recorder()
    folder = small.fit(tmp_path, small.settings(), listener=second)
    assert len(second.metrics) == 6 - (stop - 1) // 2 * 2, "from the last checkpoint on"
    assert (folder / BACKBONE).read_bytes() == (undisturbed / BACKBONE).read_bytes()
    assert log_of(folder) == log_of(undisturbed)
    assert [line["iteration"] for line in log_of(folder)] == [1, 2, 3, 4, 5, 6]
    assert [line["iteration"] for line in log_of(folder) if "retrieval" in line] == [4, 6]


@pytest.mark.slow
def test_kill_9(small, undisturbed: Path, tmp_path: Path) -> None:
    program = [sys.executable, str(Path(small.__file__)), json.dumps({"root": str(tmp_path), "kill": 5})]
    done = subprocess.run(
        program, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    found = newest(tmp_path / "work")
    assert found is not None and found.iteration == 4
    assert len(log_of(tmp_path / "work")) == 5
    with (tmp_path / "work" / LOG_NAME).open("a") as file:
        file.write('{"iteration": 6, "los')  # and the disk had half a line
    folder = small.fit(tmp_path, small.settings())
    assert (folder / BACKBONE).read_bytes() == (undisturbed / BACKBONE).read_bytes()
    assert log_of(folder) == log_of(undisturbed)


def test_another_number_of_workers_or_probes_or_images_on_demand_changes_nothing(
    small, undisturbed: Path, tmp_path: Path
) -> None:
    folder = small.fit(tmp_path, small.settings(memory=0.0, workers=3, probe_every=1, train={"checkpoint_every": 1}))
    assert (folder / BACKBONE).read_bytes() == (undisturbed / BACKBONE).read_bytes()


def test_another_seed_does(small, undisturbed: Path, tmp_path: Path) -> None:
    assert (small.fit(tmp_path, small.settings(), seed=4) / BACKBONE).read_bytes() != (undisturbed / BACKBONE).read_bytes()


def test_a_log_is_read_up_to_where_it_was_cut_off(tmp_path: Path) -> None:
    assert read_log(tmp_path / LOG_NAME) == []
    whole = {"iteration": 1, "loss": 1.0, "class_loss": 1.0, "patch_loss": 0.0, "lr": 0.1, "momentum": 0.9, "seconds": 0.1}
    for end in ('{"iteration": 2, "loss": 1.', '{"iteration": 2}', "", "\n"):
        (tmp_path / LOG_NAME).write_text(json.dumps(whole) + "\n" + end)
        assert [point.iteration for point in read_log(tmp_path / LOG_NAME)] == [1]


# --- what cannot be trained


def test_a_loss_that_is_no_number(small, tmp_path: Path) -> None:
    made = trainer(small, small.settings(train={"centring": "mean"}), tmp_path)
    with torch.no_grad():
        made.student.backbone.cls_token.fill_(math.nan)
    with pytest.raises(StageError, match="loss became nan at iteration 1") as error:
        made.run()
    assert "train.lr" in str(error.value.hint)
    assert newest(tmp_path) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"views": {"size": 36}}, "views.size 36 is no multiple of the patch, 8"),
        ({"views": {"local_size": 20}}, "views.local_size 20 is no multiple of the patch, 8"),
        ({"arch": "vit_tny_patch16_224"}, "did you mean vit_tiny_patch16_224"),
        ({"arch": "hf-hub:somebody/vit"}, "timm knows no hf-hub:somebody/vit"),
        ({"arch": "resnet18"}, "cannot be built as a ViT"),
        ({"arch": "vit_medium_patch16_gap_256"}, "class token"),
        ({"amp": "fp16"}, "fp16 needs a GPU"),
    ],
)
def test_settings_that_do_not_go_together(small, tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(StageError, match=words) as error:
        trainer(small, small.settings(**changes), tmp_path)
    assert error.value.hint


def test_the_size_of_small_views_matters_only_where_there_are_any(small, tmp_path: Path) -> None:
    made = trainer(small, small.settings(views={"local_count": 0, "local_size": 20}, train={"iters": 1}), tmp_path)
    made.run()
    assert made.iteration == 1


def test_a_batch_that_cannot_be_shared(small, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"train.batch 4 cannot be shared among 3 devices"):
        trainer(small, small.settings(), tmp_path, world=3)


# --- the training itself


def test_mixed_precision(small, tmp_path: Path) -> None:
    assert precision_of("off", CPU) is None
    assert precision_of("bf16", CPU) is torch.bfloat16
    assert precision_of("auto", CPU) in (None, torch.bfloat16)
    assert precision_of("fp16", torch.device("cuda")) is torch.float16
    made = trainer(small, small.settings(amp="bf16", train={"iters": 2}), tmp_path)
    before = made.student.backbone.blocks[0].attn.qkv.weight.clone()
    made.run()
    after = made.student.backbone.blocks[0].attn.qkv.weight
    assert after.dtype == torch.float32 and torch.isfinite(after).all() and not torch.equal(before, after)


def test_ibot_with_a_timm_vit(small, tmp_path: Path) -> None:
    config = small.settings(
        arch="vit_tiny_patch16_224",
        image_side=40,
        views={"size": 32, "local_size": 16},
        train={"iters": 1, "mask_view": "same", "same_view": 0.0, "centring": "mean", "mask": (0.3, 0.5)},
    )
    recorder = small.Recorder()
    made = trainer(small, config, tmp_path, listener=recorder)
    student = {name: value.clone() for name, value in made.student.named_parameters()}
    teacher = {name: value.clone() for name, value in made.distillation.teacher.named_parameters()}
    made.run()
    assert recorder.metrics[0]["loss"] == pytest.approx(recorder.metrics[0]["class_loss"] + recorder.metrics[0]["patch_loss"])
    assert 0 <= recorder.metrics[0]["retrieval"] <= 1
    changed = [name for name, value in made.student.named_parameters() if not torch.equal(value, student[name])]
    fixed = [name for name, value in made.student.named_parameters() if not value.requires_grad]
    assert set(changed) == set(student) - set(fixed)
    momentum = read_log(tmp_path / LOG_NAME)[0].momentum
    for name, value in made.distillation.teacher.named_parameters():
        expected = momentum * teacher[name] + (1 - momentum) * dict(made.student.named_parameters())[name]
        assert torch.allclose(value, expected, atol=1e-7), name
    assert made.distillation.classes.centre is not None
    assert made.distillation.classes.centre.value.abs().max() > 0


def test_vectors_and_tokens_do_not_decay_and_the_schedules_reach_the_optimizer(small, tmp_path: Path) -> None:
    config = small.settings(train={"iters": 3, "weight_decay": (0.1, 0.5), "lr": 0.01, "lr_end": 0.002, "warmup": 0.0})
    made = trainer(small, config, tmp_path)
    names = {id(value): name for name, value in made.student.named_parameters()}
    decaying, others = ([names[id(p)] for p in group["params"]] for group in made.optimizer.param_groups)
    assert "backbone.blocks.0.attn.qkv.weight" in decaying and "backbone.patch_embed.convs.0.weight" in decaying
    assert {"backbone.pos_embed", "backbone.cls_token", "mask_token", "backbone.norm.weight"} <= set(others)
    assert not any(name.endswith("bias") for name in decaying)
    trained = [name for name, value in made.student.named_parameters() if value.requires_grad]
    assert sorted(decaying + others) == sorted(trained)
    made.run()
    assert [group["lr"] for group in made.optimizer.param_groups] == pytest.approx([0.002, 0.002])
    assert [group["weight_decay"] for group in made.optimizer.param_groups] == pytest.approx([0.5, 0.0])


def test_retrieval_is_a_share_and_leaves_the_training_alone(small, tmp_path: Path) -> None:
    made = trainer(small, small.settings(), tmp_path)
    state = {name: value.clone() for name, value in made.distillation.state_dict().items()}
    first = made.retrieval()
    assert 0 <= first <= 1 and first == made.retrieval()
    assert made.distillation.teacher.training
    assert all(torch.equal(value, state[name]) for name, value in made.distillation.state_dict().items())


def test_retrieval_finds_all_where_views_are_alike_and_one_where_nothing_is_known(small, tmp_path: Path) -> None:
    colour = {"hue": 0, "saturation": 0, "contrast": 0, "brightness": 0, "grey": 0, "invert": 0, "blur": 0}
    alike = {"scale": (1, 1), "flip": "none", "colour": colour, "objects": {"share": 0}}
    made = trainer(small, small.settings(views=alike), tmp_path)
    assert made.retrieval() >= 0.8, "views differ only in their proportions"
    with torch.no_grad():
        made.distillation.teacher.backbone.norm.weight.zero_()
        made.distillation.teacher.backbone.norm.bias.fill_(1.0)
    assert made.retrieval() == pytest.approx(0.1)


def test_what_is_published_is_the_teacher_with_the_statistics_of_whole_images(small, tmp_path: Path) -> None:
    made = trainer(small, small.settings(train={"iters": 2}), tmp_path)
    made.run()
    published, teacher = made.backbone().state_dict(), made.distillation.teacher.backbone.state_dict()
    for name, value in published.items():
        if "running" not in name and "num_batches" not in name:
            assert torch.equal(value, teacher[name]), name
    assert any(not torch.equal(value, teacher[name]) for name, value in published.items() if "running_mean" in name)


def test_it_learns(small, tmp_path: Path) -> None:
    """Thirty iterations on a few scenes: the class loss falls clearly below where it began."""
    config = small.settings(
        views={"local_count": 0},
        train={"iters": 30, "batch": 8, "lr": 0.003, "warmup": 0.1, "patch_loss": 0.0, "same_view": 0.0, "ema": (0.9, 1.0)},
        probe_every=100,
    )
    recorder = small.Recorder()
    trainer(small, config, tmp_path, count=16, listener=recorder).run()
    losses = [metrics["class_loss"] for metrics in recorder.metrics]
    assert sum(losses[-5:]) / 5 < 0.85 * sum(losses[:3]) / 3, losses
