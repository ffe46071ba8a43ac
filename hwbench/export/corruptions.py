"""Pictures as they come in the field: noise, blur, light, small files. Strength 1 to 5.

Kinds and strengths are those of CIFAR-10-C (Hendrycks & Dietterich, "Benchmarking neural network
robustness to common corruptions and perturbations", ICLR 2019), for small pictures. Every function
takes pixels (n, channels, height, width), float32 in 0..1, a strength and a seeded generator.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from hwbench.errors import UserError, did_you_mean

if TYPE_CHECKING:
    import numpy as np

    Corruption = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


def corrupt(pixels: np.ndarray, name: str, severity: int, seed: int = 0) -> np.ndarray:
    """Return the pictures corrupted, pixels in 0..1; the same seed gives the same.

    Raises `UserError` for an unknown corruption or a severity outside 1 to 5.
    """
    import numpy as np

    if name not in CORRUPTIONS:
        raise UserError(f"no corruption {name!r}", mend=did_you_mean(name, tuple(CORRUPTIONS)))
    if not 1 <= severity <= 5:
        raise UserError(f"a severity of {severity}", expected="1 to 5")
    rng = np.random.default_rng([seed, severity, list(CORRUPTIONS).index(name)])
    change, strengths = CORRUPTIONS[name]
    changed: np.ndarray = np.clip(change(pixels, strengths[severity - 1], rng), 0.0, 1.0)
    return changed.astype(np.float32)


def _gaussian_noise(pixels: np.ndarray, sd: float, rng: np.random.Generator) -> np.ndarray:
    return pixels + rng.normal(0.0, sd, pixels.shape)


def _shot_noise(pixels: np.ndarray, photons: float, rng: np.random.Generator) -> np.ndarray:
    found: np.ndarray = rng.poisson(pixels * photons) / photons
    return found


def _impulse_noise(pixels: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    import numpy as np

    dice = rng.random(pixels.shape)
    return np.where(dice < share / 2, 0.0, np.where(dice > 1 - share / 2, 1.0, pixels))


def _gaussian_blur(pixels: np.ndarray, sd: float, rng: np.random.Generator) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    blurred: np.ndarray = gaussian_filter(pixels, (0, 0, sd, sd), mode="nearest")
    return blurred


def _contrast(pixels: np.ndarray, kept: float, rng: np.random.Generator) -> np.ndarray:
    mean = pixels.mean(axis=(2, 3), keepdims=True)
    found: np.ndarray = mean + kept * (pixels - mean)
    return found


def _brightness(pixels: np.ndarray, added: float, rng: np.random.Generator) -> np.ndarray:
    """Raise the value of hue, saturation, value: colours keep their hue."""
    import numpy as np

    value = pixels.max(axis=1, keepdims=True)
    brighter = np.minimum(value + added, 1.0)
    scaled = pixels * brighter / np.maximum(value, 1e-6)
    found: np.ndarray = np.where(value > 0, scaled, brighter)
    return found


def _pixelate(pixels: np.ndarray, size: float, rng: np.random.Generator) -> np.ndarray:
    import torch
    from torch.nn import functional as F

    height, width = pixels.shape[2:]
    small = (max(1, int(height * size)), max(1, int(width * size)))
    coarse = F.interpolate(torch.from_numpy(pixels), size=small, mode="area")
    found: np.ndarray = F.interpolate(coarse, size=(height, width), mode="nearest").numpy()
    return found


def _jpeg(pixels: np.ndarray, quality: float, rng: np.random.Generator) -> np.ndarray:
    import numpy as np
    from PIL import Image

    pictures = np.round(pixels * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    found = []
    for picture in pictures:
        buffer = io.BytesIO()
        Image.fromarray(picture.squeeze()).save(buffer, "JPEG", quality=int(quality))
        found.append(np.asarray(Image.open(buffer)).reshape(picture.shape))
    return np.stack(found).transpose(0, 3, 1, 2) / np.float32(255)


CORRUPTIONS: Mapping[str, tuple[Corruption, tuple[float, float, float, float, float]]] = {
    "gaussian_noise": (_gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot_noise": (_shot_noise, (500, 250, 100, 75, 50)),
    "impulse_noise": (_impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "gaussian_blur": (_gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
    "contrast": (_contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "brightness": (_brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "pixelate": (_pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
    "jpeg": (_jpeg, (80, 65, 58, 50, 40)),
}
