"""Image metrics, one value an image, computed by `dm_pix` on [0, 1]."""

import dm_pix
import jax
import jax.numpy as jnp


def to_unit(image: jax.Array) -> jax.Array:
  """[-1, 1] → [0, 1]."""
  return jnp.clip((image + 1) / 2, 0, 1)


def image_metrics(prediction: jax.Array, target: jax.Array, mask: jax.Array | None = None) -> dict[str, jax.Array]:
  """`l1`, `psnr` (dB) and `ssim` of images (N, H, W, C) in [-1, 1], each (N,), on the [0, 1] scale.

  SSIM (Wang et al. 2004) has an 11×11 Gaussian window, σ 1.5. Where a `mask` (N, H, W, 1) is given, L1 and PSNR count
  its valid pixels only, and SSIM, which needs whole windows, is left out.
  """
  prediction, target = to_unit(prediction), to_unit(target)
  if mask is None:
    window = min(11, *target.shape[1:3])
    return {"l1": jnp.abs(prediction - target).mean((1, 2, 3)),
            "psnr": dm_pix.psnr(prediction, target),
            "ssim": dm_pix.ssim(prediction, target, filter_size=window)}
  count = jnp.maximum(mask.sum((1, 2, 3)) * target.shape[-1], 1)
  squared = (jnp.square(prediction - target) * mask).sum((1, 2, 3)) / count
  return {"l1": (jnp.abs(prediction - target) * mask).sum((1, 2, 3)) / count,
          "psnr": -10 * jnp.log10(jnp.maximum(squared, 1e-12))}
