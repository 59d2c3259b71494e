"""Previews: a linear map from latents to colors, fitted to the model's own VAE when it is loaded.

The map is the least-squares solution over smooth color fields, which the VAE encodes. So no numbers of one family are
needed, and a VAE that cannot encode has no previews.
"""

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from umrgen.server.engines import Pixels

__all__ = ["LatentPreview", "fit"]

log = logging.getLogger(__name__)

FIELDS, SIDE = 4, 256
"""The color fields that are encoded, and their side in pixels."""
SEED = 1
RIDGE = 1e-3


def _fields() -> Any:
    """Return smooth fields of random colors, values -1 to 1."""
    import torch

    random = torch.Generator("cpu").manual_seed(SEED)
    coarse = torch.rand(FIELDS, 3, 5, 5, generator=random) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=(SIDE, SIDE), mode="bicubic").clamp(-1, 1)


def _working(latents: Any, vae: Any) -> Any:
    """Return latents in the scale in which a pipeline denoises them."""
    shift = vae.config.get("shift_factor") or 0.0
    return (latents - shift) * (vae.config.get("scaling_factor") or 1.0)


class LatentPreview:
    """Unfinished images from a pipeline's latents."""

    def __init__(self, weights: Any, packed: bool) -> None:
        self._weights = weights
        """Shape (channels + 1, 3): the last row is the constant."""
        self._packed = packed
        self.size = (0, 0)
        """Width and height of the image that is drawn."""

    def __call__(self, latents: Any, number: int) -> "Pixels":
        """Return the unfinished image of one job of a batch."""
        import torch

        with torch.inference_mode():
            grid = self._grid(latents[number].detach().float().cpu())
            channels = grid.shape[0]
            flat = torch.cat([grid.reshape(channels, -1).T, torch.ones(grid[0].numel(), 1)], dim=1)
            colors = (flat @ self._weights).clamp(-1, 1).reshape(*grid.shape[1:], 3)
            array: Pixels = ((colors + 1) * 127.5).round().to(torch.uint8).numpy()
            return array

    def _grid(self, latents: Any) -> Any:
        """Return latents as (channels, rows, columns); packed ones are a sequence of patches of 2 × 2."""
        if not self._packed:
            return latents.reshape(latents.shape[0], *latents.shape[-2:])
        width, height = self.size
        count, depth = latents.shape
        rows = round((count * height / width) ** 0.5)
        patches = latents.reshape(rows, count // rows, depth // 4, 2, 2)
        return patches.permute(2, 0, 3, 1, 4).reshape(depth // 4, rows * 2, count // rows * 2)


def _solve(latents: Any, fields: Any) -> Any:
    """Return the weights, shape (channels + 1, 3), that map latents to the mean colors of their squares."""
    import torch

    small = torch.nn.functional.interpolate(fields, size=latents.shape[-2:], mode="area")
    inputs = latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1])
    inputs = torch.cat([inputs, torch.ones(len(inputs), 1)], dim=1)
    outputs = small.permute(0, 2, 3, 1).reshape(-1, 3)
    square = inputs.T @ inputs + RIDGE * torch.eye(inputs.shape[1])
    return torch.linalg.solve(square, inputs.T @ outputs)


def fit(pipeline: Any, packed: bool) -> LatentPreview | None:
    """Return previews for the pipeline, or None if its VAE has another form than a 2D autoencoder."""
    import torch

    fields = _fields()
    try:
        vae = pipeline.vae
        with torch.inference_mode():
            encoded = vae.encode(fields.to(vae.device, vae.dtype)).latent_dist.mode().float().cpu()
            return LatentPreview(_solve(_working(encoded, vae), fields), packed)
    except (AttributeError, ValueError, RuntimeError, TypeError) as error:
        log.info("this model has no previews (%s)", type(error).__name__)
        return None
