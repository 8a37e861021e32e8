"""What a transformer's patches say by themselves: the last block without mixing tokens.

With an attention map that is the identity, ``y = x + W_o W_v LN1(x)``, ``y += MLP(LN2(y))``. That map is what any
attention comes to on a sequence of one token, so the block reads every token as a sequence of its own; this holds for
whatever the block does to its heads.

Source: MaskCLIP (arXiv 2112.01071); FG-CLIP's region features.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from cliplet.models.vision import VisionTower


@contextmanager
def alone(module: nn.Module, batch_first: bool = True, call: int = 1) -> Iterator[None]:
    """Let a module read each token as a sequence of its own inside this context.

    Args:
        module: an attention or a whole block; its first argument and its result (or the first of several) are
            ``[B, N, D]``, and no mask is given to it.
        batch_first: False for ``[N, B, D]``.
        call: which of its calls, from 1; the others stay as they are.
    """
    calls = [0]
    shapes: list[tuple[int, ...]] = [()]

    def split(_: nn.Module, args: Any, kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] != call:
            return None
        shapes[0] = args[0].shape
        apart = args[0].reshape((-1, 1, shapes[0][2]) if batch_first else (1, -1, shapes[0][2]))
        return (apart, *args[1:]), kwargs

    def join(_: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        if calls[0] != call:
            return None
        if isinstance(output, tuple):
            return (output[0].reshape(shapes[0]), *output[1:])
        return output.reshape(shapes[0])

    hooks = [
        module.register_forward_pre_hook(split, with_kwargs=True),
        module.register_forward_hook(join, with_kwargs=True),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def as_maps(patches: Tensor, grid: tuple[int, int]) -> Tensor:
    """Patches ``[B, h * w, D]``, row by row, as maps ``[B, D, h, w]``."""
    return patches.transpose(1, 2).unflatten(2, grid)


def tower_maps(tower: VisionTower, pixels: Tensor) -> Tensor:
    """A vision transformer's patches before its projection, the last block's attention the identity.

    Args:
        tower: of our own.
        pixels: ``[B, 3, H, W]``.

    Returns:
        ``[B, D, G, G]``.
    """
    block: Any = tower.transformer.blocks[-1]
    side = tower.config.image_size // tower.config.patch_size
    with alone(block.attention, call=len(block.repeats)):
        tokens = tower.tokens(pixels)
    return as_maps(tokens[:, 1:], (side, side))


def open_clip_maps(visual: Any, pixels: Tensor) -> Tensor | None:
    """The same of open_clip's vision transformer, projected; None for another network.

    Args:
        visual: ``model.visual``.
        pixels: ``[B, 3, H, W]``.

    Returns:
        ``[B, d, h, w]``.
    """
    blocks = getattr(getattr(visual, "transformer", None), "resblocks", None)
    if blocks is None or getattr(visual, "attn_pool", None) is not None or not hasattr(visual, "ln_post"):
        return None
    kept: list[Tensor] = []
    hook = visual.transformer.register_forward_hook(lambda *call: kept.append(call[2]))
    try:
        with alone(blocks[-1], visual.transformer.batch_first):
            visual(pixels)
    finally:
        hook.remove()
    rows, columns = visual.grid_size
    patches = visual.ln_post(kept[0][:, -rows * columns :])
    if visual.proj is not None:
        patches = patches @ visual.proj
    return as_maps(patches, (rows, columns))
