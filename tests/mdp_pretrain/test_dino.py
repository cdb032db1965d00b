import copy
import math

import numpy as np
import pytest
import timm
import torch
from lightly.loss import DINOLoss
from timm.models.vision_transformer import VisionTransformer

from mdp_core.api import StageError
from mdp_pretrain.dino import (
    Assignment,
    Distillation,
    Network,
    Turn,
    Views,
    choose_patches,
    draw_mask,
    make_views,
)
from mdp_pretrain.schedule import cosine, temperature_at
from mdp_pretrain.settings import ColourConfig, HeadConfig, ObjectsConfig, TrainConfig, ViewsConfig
from mdp_pretrain.views import Batch, turn

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
STILL = ColourConfig(hue=0, saturation=0, contrast=0, brightness=0, grey=0, invert=0, blur=0)
HEAD = HeadConfig(hidden=16, bottleneck=8, prototypes=12, patch_prototypes=10)
TURNS = [Turn(quarters, mirrored) for quarters in range(4) for mirrored in (False, True)]


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def by_colour(patch: int = 8) -> VisionTransformer:
    """A ViT without blocks: a patch's token is a function of its own mean colour, wherever it lies and however it is turned."""
    model = VisionTransformer(
        img_size=32, patch_size=patch, embed_dim=24, depth=0, num_heads=2, num_classes=0, dynamic_img_size=True
    )
    with torch.no_grad():
        weight = model.patch_embed.proj.weight
        weight.copy_(torch.randn(24, 3, 1, 1, generator=gen(1)).expand_as(weight) / patch**2)
        model.pos_embed.zero_()
    return model


def network(*, patches: bool = True, masks: bool = False, backbone: VisionTransformer | None = None) -> Network:
    torch.manual_seed(0)
    return Network(backbone or by_colour(), HEAD, patches=patches, masks=masks)


def distillation(student: Network, small, **train) -> Distillation:
    config = small.settings(train=train).model_copy(update={"head": HEAD})
    return Distillation(student, config)


# --- the loss of the class token


def literal_class_loss(targets: torch.Tensor, logits: torch.Tensor, temperature: float, same_view: float) -> float:
    count, total, weights = len(targets) // 2, 0.0, 0.0
    for t in range(2):
        for s in range(len(logits) // count):
            weight = same_view if s == t else 1.0
            for image in range(count):
                p = targets[t * count + image].double().numpy()
                z = logits[s * count + image].double().numpy() / temperature
                q = np.exp(z) / np.exp(z).sum()
                total += weight * -(p * np.log(q)).sum() / count
            weights += weight
    return total / weights


@pytest.mark.parametrize("same_view", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("local", [0, 3])
def test_the_class_loss_is_a_mean_over_pairs_of_views(small, same_view: float, local: int) -> None:
    dist = distillation(network(), small, same_view=same_view, student_temperature=0.2)
    targets = torch.randn(2 * 4, 12, generator=gen(1)).softmax(dim=1)
    logits = torch.randn((2 + local) * 4, 12, generator=gen(2))
    assert float(dist._class_loss(targets, logits)) == pytest.approx(
        literal_class_loss(targets, logits, 0.2, same_view), rel=1e-5
    )


def test_mean_centring_is_lightlys_dino_loss(small) -> None:
    dist = distillation(network(), small, same_view=0.0, centring="mean")
    assignment, reference = Assignment(12, "mean"), DINOLoss(12, student_temp=0.1)
    for step in range(4):  # the centre moves
        teacher, student = torch.randn(2, 5, 12, generator=gen(step)), 0.1 * torch.randn(5, 5, 12, generator=gen(step + 9))
        targets = assignment(teacher.flatten(0, 1), 0.05)
        ours = dist._class_loss(targets, student.flatten(0, 1))
        theirs = reference(list(teacher), list(student), teacher_temp=0.05)
        assert abs(float(ours) - float(theirs)) < 1e-6
    assert assignment.centre is not None
    assert torch.allclose(assignment.centre.value, reference.center[0], atol=1e-6)
    assert assignment.centre.value.abs().max() > 0.01


def test_sinkhorn_shares_the_samples_among_the_prototypes() -> None:
    logits = torch.rand(64, 8, generator=gen()) + torch.linspace(0, 0.6, 8)  # the last one attracts most
    found = Assignment(8, "sinkhorn")(logits, 0.1)
    assert torch.allclose(found.sum(dim=1), torch.ones(64), atol=1e-5)
    plain = (logits / 0.1).softmax(dim=1)
    assert plain.sum(dim=0).max() > 20
    assert (found.sum(dim=0) - 8).abs().max() < 1.5

    q = np.exp(logits.double().numpy() / 0.1).T
    q /= q.sum()
    for _ in range(3):
        q = q / q.sum(axis=1, keepdims=True) / 8
        q = q / q.sum(axis=0, keepdims=True) / 64
    assert np.abs(found.numpy() - (q * 64).T).max() < 1e-5


# --- the loss of the patches


def views_of(pixels: torch.Tensor, turns: list[Turn], *, mask: torch.Tensor | None = None, chosen: torch.Tensor) -> Views:
    student = [turn(part, t.quarters, t.mirrored) for part, t in zip(pixels.chunk(2), turns, strict=True)]
    return Views(list(pixels.chunk(2)), student, turns, None, mask, chosen)


def pictures(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 4, 4, generator=gen(3)).repeat_interleave(8, -1).repeat_interleave(8, -2) * 2


@pytest.mark.parametrize("t", TURNS, ids=str)
def test_the_teachers_tokens_move_to_where_the_students_patches_are(small, t: Turn) -> None:
    student = network()
    dist = distillation(student, small, patch_loss=1.0, centring="mean", same_view=0.0)
    pixels, chosen = pictures(6), torch.arange(6 * 16)
    right = views_of(pixels, [t, Turn(1, True)], chosen=chosen)
    teacher_tokens = dist.teacher.tokens(pixels)[1]
    assert torch.allclose(
        dist._as_student_sees(teacher_tokens, right.turns), student.tokens(torch.cat(right.student))[1], atol=1e-5
    )
    losses = {}
    for claimed in TURNS:
        said = Views(right.teacher, right.student, [claimed, Turn(1, True)], None, None, chosen)
        losses[claimed] = float(copy.deepcopy(dist)(student, said, 0.04).patches)
    assert min(losses, key=losses.__getitem__) == t
    assert losses[t] < min(loss for claimed, loss in losses.items() if claimed != t)


def test_the_patch_loss_counts_the_chosen_patches_alone(small) -> None:
    student = network()
    dist = distillation(student, small, patch_loss=2.0, centring="mean", same_view=0.0, student_temperature=0.1)
    pixels, chosen = pictures(4), torch.tensor([3, 17, 40])
    views = views_of(pixels, [Turn(), Turn()], chosen=chosen)
    losses = dist(student, views, 0.05)
    expected = 0.0
    for place in chosen.tolist():
        view, cell = divmod(place, 16)
        token = dist.teacher.tokens(pixels[view : view + 1])[1].flatten(0, 2)[cell]
        logits = dist.teacher.patch_head(token[None])[0].double()
        target, said = (logits / 0.05).softmax(dim=0), (logits / 0.1).log_softmax(dim=0)
        expected -= float((target * said).sum()) / 3
    assert float(losses.patches) == pytest.approx(expected, rel=1e-4)
    assert float(losses.total.detach()) == pytest.approx(float(losses.classes) + 2 * expected, rel=1e-4)


def test_masked_patches_are_the_mask_token_to_the_student_and_seen_by_the_teacher(small) -> None:
    student = network(masks=True)
    torch.nn.init.normal_(student.mask_token)
    dist = distillation(student, small, patch_loss=1.0)
    pixels = pictures(2)
    mask = torch.zeros(2, 4, 4, dtype=torch.bool)
    mask[0, 1, 2] = mask[1, 3, 0] = True
    plain, masked = student.tokens(pixels)[1], student.tokens(pixels, mask)[1]
    changed = (plain - masked).abs().amax(dim=-1) > 1e-6
    assert torch.equal(changed, mask)
    changed_pixels = pixels.clone()
    changed_pixels[0, :, 8:16, 16:24] = 9.0
    assert torch.allclose(student.tokens(changed_pixels, mask)[1], masked, atol=1e-6), "what is masked is not seen"
    chosen = mask.flatten().nonzero()[:, 0]
    before = Views(list(pixels.chunk(2)), list(pixels.chunk(2)), [Turn(), Turn()], None, mask, chosen)
    after = Views(list(changed_pixels.chunk(2)), list(changed_pixels.chunk(2)), [Turn(), Turn()], None, mask, chosen)
    losses = [float(copy.deepcopy(dist)(student, views, 0.05).patches) for views in (before, after)]
    assert losses[0] != losses[1], "the teacher sees it"


def test_which_patches_enter_the_patch_loss() -> None:
    mask = torch.zeros(4, 3, 3, dtype=torch.bool)
    mask[1, 0, 2] = mask[2, 1, 1] = True
    same, new = TrainConfig(patch_loss=1.0), TrainConfig(patch_loss=1.0, mask_view="new")
    assert choose_patches(mask, 36, same, gen()).tolist() == [11, 22]
    assert choose_patches(mask, 36, new, gen()).tolist() == list(range(36))
    assert choose_patches(None, 36, same, gen()).tolist() == list(range(36))
    assert choose_patches(torch.zeros_like(mask), 36, same, gen()).tolist() == list(range(36))
    some = choose_patches(mask, 36, new.model_copy(update={"patch_tokens": 20}), gen())
    assert len(set(some.tolist())) == 20 and some.min() >= 0 and some.max() < 36


def test_half_of_the_views_are_masked_by_the_shares_asked_for() -> None:
    mask = draw_mask(1000, 10, (0.2, 0.4), gen())
    shares = mask.flatten(1).float().mean(dim=1)
    some = shares > 0
    assert 430 < some.sum() < 570
    assert 0.2 - 0.005 <= shares[some].min() < 0.21 and 0.39 < shares[some].max() <= 0.4 + 0.005
    everywhere = mask[some].float().mean(dim=0)
    assert (everywhere - 0.3).abs().max() < 0.1, "each place as often"


# --- the views of an iteration


def make(train: TrainConfig, *, views: ViewsConfig | None = None, boxes: bool = False) -> Views:
    pixels = torch.rand(3, 3, 32, 32, generator=gen(4))
    masks = torch.ones(3, 1, 32, 32) if boxes else None
    batch = Batch(pixels, torch.ones(3), masks, torch.tensor([[0.0, 0, 1, 1]]).expand(3, 4) if boxes else None)
    return make_views(
        batch, views or ViewsConfig(size=32, local_size=16, local_count=2, colour=STILL), train, 8, MEAN, STD, gen(7)
    )


def test_the_student_sees_the_teachers_views_turned_anew() -> None:
    made = make(TrainConfig(patch_loss=1.0, mask_view="new", mask=(0, 0)))
    for teacher, student, t in zip(made.teacher, made.student, made.turns, strict=True):
        assert torch.allclose(student, turn(teacher, t.quarters, t.mirrored), atol=1e-5)
    assert made.mask is None and made.chosen is not None and len(made.chosen) == 2 * 3 * 16
    assert made.local is not None and made.local.shape == (6, 3, 16, 16)
    assert not torch.equal(*made.teacher)


def test_new_views_draw_new_colours() -> None:
    views = ViewsConfig(size=32, local_count=0)
    made = make(TrainConfig(same_view=0.5, mask_view="new"), views=views)
    again = [turn(teacher, t.quarters, t.mirrored) for teacher, t in zip(made.teacher, made.turns, strict=True)]
    assert all((one - other).abs().max() > 0.05 for one, other in zip(again, made.student, strict=True))
    assert made.local is None and made.chosen is None


def test_images_that_are_not_mirrored_are_not_mirrored_for_the_student() -> None:
    draws = [gen(seed) for seed in range(30)]
    batch = Batch(torch.rand(1, 3, 16, 16, generator=gen()), torch.ones(1))
    train = TrainConfig(patch_loss=1.0, mask_view="new", mask=(0, 0))

    def turns(flip: str) -> list[Turn]:
        views = ViewsConfig(size=16, local_count=0, colour=STILL, flip=flip)
        return [t for draw in draws for t in make_views(batch, views, train, 8, MEAN, STD, draw).turns]

    assert not any(t.mirrored for t in turns("none"))
    assert {(t.quarters, t.mirrored) for t in turns("horizontal")} == {(t.quarters, t.mirrored) for t in TURNS}


def test_as_in_dino_the_views_are_the_same_tensors_with_some_patches_masked() -> None:
    made = make(TrainConfig(patch_loss=1.0, mask=(0.5, 0.5)))
    assert all(one is other for one, other in zip(made.teacher, made.student, strict=True))
    assert made.turns == [Turn(), Turn()]
    assert made.mask is not None and made.mask.shape == (6, 4, 4)
    assert set(made.mask.flatten(1).sum(dim=1).tolist()) == {0, 8}
    assert made.chosen is not None
    assert torch.equal(made.chosen, made.mask.flatten().nonzero()[:, 0])


def test_normalised_pixels_and_no_view_around_masks_where_there_are_none() -> None:
    views = ViewsConfig(size=32, local_count=0, colour=STILL, objects=ObjectsConfig(share=1, fill=1))
    made = make(TrainConfig(), views=views)
    back = made.teacher[0] * STD[:, None, None] + MEAN[:, None, None]
    assert back.min() > -1e-6 and back.max() < 1 + 1e-6
    assert make(TrainConfig(), views=views, boxes=True).teacher[0].shape == (3, 3, 32, 32)


# --- teacher and student


def test_the_teacher_follows_and_is_never_trained(small) -> None:
    student = network(masks=True)
    dist = distillation(student, small, patch_loss=1.0)
    assert not any(parameter.requires_grad for parameter in dist.teacher.parameters())
    before = {name: value.clone() for name, value in dist.teacher.named_parameters()}
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=gen()))
    dist.follow(student, 0.9)
    for name, value in dist.teacher.named_parameters():
        expected = 0.9 * before[name] + 0.1 * dict(student.named_parameters())[name]
        assert torch.allclose(value, expected, atol=1e-6), name
    dist.follow(student, 1.0)
    assert all(torch.allclose(value, 0.9 * before[name] + 0.1 * dict(student.named_parameters())[name], atol=1e-6)
               for name, value in dist.teacher.named_parameters())  # fmt: skip


@pytest.mark.parametrize("learn", [True, False])
@pytest.mark.parametrize("mask_view", ["same", "new"])
def test_gradients_reach_all_of_the_student_and_none_of_the_teacher(small, learn: bool, mask_view: str) -> None:
    torch.manual_seed(0)
    head = HEAD.model_copy(update={"learn_prototypes": learn})
    backbone = timm.create_model("mdp_vit_tiny", num_classes=0, img_size=32, depth=2)
    student = Network(backbone, head, patches=True, masks=True)
    train = TrainConfig(patch_loss=1.0, mask_view=mask_view, mask=(0.4, 0.5))
    dist = Distillation(student, small.settings().model_copy(update={"head": head, "train": train}))
    dist(student, make(train), 0.05).total.backward()
    fixed = [name for name, parameter in student.named_parameters() if not parameter.requires_grad]
    assert all("last_layer" in name for name in fixed)
    assert len(fixed) == (2 if learn else 4), "lengths of the prototypes, and the prototypes where they are not learnt"
    for name, parameter in student.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    assert all(parameter.grad is None for parameter in dist.teacher.parameters())


def test_prototypes_are_unit_vectors_and_logits_are_cosines() -> None:
    for learn in (True, False):
        student = Network(by_colour(), HEAD.model_copy(update={"learn_prototypes": learn}), patches=False, masks=False)
        weight = student.class_head.last_layer.weight
        assert torch.allclose(weight.norm(dim=1), torch.ones(12), atol=1e-6)
        logits = student.class_head(torch.randn(5, 24, generator=gen()))
        assert logits.abs().max() <= 1 + 1e-6


@pytest.mark.parametrize("arch", ["vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2", "deit_tiny_distilled_patch16_224"])
def test_tokens_are_timms_own(arch: str) -> None:
    torch.manual_seed(0)
    size = 56 if "patch14" in arch else 48
    backbone = timm.create_model(arch, num_classes=0, dynamic_img_size=True, img_size=size, depth=2).eval()
    student = Network(backbone, HEAD, patches=True, masks=True).eval()
    pixels = torch.randn(2, 3, size, size, generator=gen())
    features = backbone.forward_features(pixels)
    classes, patches = student.tokens(pixels)
    assert torch.allclose(classes, features[:, 0], atol=1e-5)
    assert torch.allclose(patches.flatten(1, 2), features[:, backbone.num_prefix_tokens :], atol=1e-5)


@pytest.mark.parametrize("arch", ["vit_medium_patch16_gap_256", "resnet18"])
def test_a_network_without_a_class_token_is_refused(arch: str) -> None:
    settings = {"dynamic_img_size": True} if arch.startswith("vit") else {}
    with torch.device("meta"):
        backbone = timm.create_model(arch, num_classes=0, **settings)
    with pytest.raises(StageError, match="class token"):
        Network(backbone, HEAD, patches=False, masks=False)


# --- schedules


def test_schedules_at_their_ends() -> None:
    assert cosine(0.9, 1.0, 0.0) == pytest.approx(0.9) and cosine(0.9, 1.0, 1.0) == 1.0
    assert cosine(4.0, 2.0, 0.5) == pytest.approx(3.0) and cosine(4.0, 2.0, 1 / 3) == pytest.approx(2 + 2 * 0.75)
    assert cosine(4.0, 2.0, -1.0) == 4.0 and cosine(4.0, 2.0, 7.0) == 2.0
    rising = TrainConfig(teacher_temperature=(0.02, 0.06), teacher_warmup=0.5)
    assert [temperature_at(rising, p) for p in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([0.02, 0.04, 0.06, 0.06])
    assert temperature_at(TrainConfig(teacher_temperature=(0.02, 0.06)), 0.0) == 0.06
    assert math.isclose(temperature_at(TrainConfig(teacher_warmup=1.0, teacher_temperature=(0.04, 0.08)), 0.5), 0.06)
