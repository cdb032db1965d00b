"""``builtin:random``: a small ViT that has learnt nothing, for trials without a download.

Its weights are random numbers from one fixed seed: uniform ones, because these are the same bits on every machine. Two
ties between them, measured to matter much more than width, depth or seed, give its attention a meaning without any training:

* the output projection of each block is a multiple of the transposed value projection, so that what CLS gathers points the way
  of the mean patch (random projections nearly preserve directions);
* in the last block the query projection is the negative key projection, so that CLS attends most to the patches that are
  least like that mean: what stands out from the image.

The patch embedding sees each patch as 2 × 2 mean colours. All keys of an image point roughly one way, as in any untrained ViT,
so priors need ``centre_keys: true`` with it.
"""

from __future__ import annotations

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

DIM, DEPTH, HEADS, PATCH, IMAGE = 192, 4, 3, 8, 128
CELLS = 2
"""Each patch is seen as CELLS × CELLS mean colours."""
STD = 0.02
"""Standard deviation of all weights but the patch embedding's, as ViTs are usually initialised."""
VALUE_GAIN = 0.5
"""Size of each block's contribution to the tokens, relative to the normalised mean token."""
SEED = 0


def random_vit(seed: int = SEED) -> VisionTransformer:
    """Builds the untrained ViT: width 192, 4 blocks, 3 heads, patch 8, positions for 128 × 128 pixels.

    Args:
        seed: Another draw of the weights, for studies; ``builtin:random`` is seed 0.
    """
    model = VisionTransformer(
        img_size=IMAGE, patch_size=PATCH, embed_dim=DIM, depth=DEPTH, num_heads=HEADS, num_classes=0, dynamic_img_size=True
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif name == "patch_embed.proj.weight":
                parameter.copy_(_cell_filters(generator))
            elif parameter.ndim == 1:  # layer norms
                parameter.fill_(1.0)
            else:
                parameter.copy_(_uniform(parameter.shape, STD, generator))
        for index, block in enumerate(model.blocks):
            query, key, value = block.attn.qkv.weight.chunk(3)
            block.attn.proj.weight.copy_(value.T * (VALUE_GAIN / (DIM * STD**2)))
            if index == DEPTH - 1:
                query.copy_(-key)
    return model


def _cell_filters(generator: torch.Generator) -> Tensor:
    std = (3 * PATCH * PATCH) ** -0.5
    cells = _uniform((DIM, 3, CELLS, CELLS), std, generator)
    return cells.repeat_interleave(PATCH // CELLS, dim=2).repeat_interleave(PATCH // CELLS, dim=3)


def _uniform(shape: tuple[int, ...], std: float, generator: torch.Generator) -> Tensor:
    return (torch.rand(shape, generator=generator) * 2.0 - 1.0) * (std * 3.0**0.5)
