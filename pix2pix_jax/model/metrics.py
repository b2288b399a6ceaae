"""Metrics of images on [0, 1] (from `dm_pix`) and of depth in metres: one value per image; the caller averages."""

import dm_pix
import jax
import jax.numpy as jnp

from pix2pix_jax.signals import Signal

HIGHER_IS_BETTER = ("psnr", "ssim", "delta1", "delta2", "delta3")  # for all others, lower is better


MAX_PSNR = 120.0  # dB; that of identical images would be infinite


def to_unit(image: jax.Array) -> jax.Array:
  """[-1, 1] → [0, 1]."""
  return jnp.clip((image + 1) / 2, 0, 1)


def image_metrics(prediction: jax.Array, target: jax.Array, mask: jax.Array | None = None) -> dict[str, jax.Array]:
  """`l1`, `psnr` (dB, at most 120) and `ssim` of images (N, H, W, C) in [-1, 1], each (N,), on the [0, 1] scale.

  SSIM (Wang et al. 2004) has an 11×11 Gaussian window, σ 1.5. With a `mask` (N, H, W, 1), L1 and PSNR count
  only its valid pixels (NaN for an image without any), and SSIM, which needs whole windows, is left out.
  """
  prediction, target = to_unit(prediction), to_unit(target)
  if mask is None:
    window = min(11, *target.shape[1:3])
    return {
      "l1": jnp.abs(prediction - target).mean((1, 2, 3)),
      "psnr": jnp.minimum(dm_pix.psnr(prediction, target), MAX_PSNR),
      "ssim": dm_pix.ssim(prediction, target, filter_size=window),
    }
  count = mask.sum((1, 2, 3)) * target.shape[-1]  # 0 / 0 is NaN where no pixel is valid
  squared = (jnp.square(prediction - target) * mask).sum((1, 2, 3)) / count
  return {
    "l1": (jnp.abs(prediction - target) * mask).sum((1, 2, 3)) / count,
    "psnr": jnp.minimum(-10 * jnp.log10(squared), MAX_PSNR),
  }


def depth_metrics(prediction: jax.Array, target: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
  """Errors of depth (N, H, W, 1) in metres over the pixels where `mask` is 1, each (N,); NaN for an image without any.

  `rmse` and `mae` in metres; `abs_rel` the mean of |error| / target; `delta1`, `delta2`, `delta3` the shares of pixels
  whose ratio to the target is below 1.25, 1.25², 1.25³ (Eigen et al. 2014, arXiv 1406.2283); `silog` the standard
  deviation of the logarithmic error times 100, as on KITTI's server. Predictions below one millimetre count as one
  millimetre.
  """
  if not prediction.shape == target.shape == mask.shape or target.shape[-1] != 1:
    raise ValueError(
      f"Expected three arrays (N, H, W, 1) of one shape, got {prediction.shape}, {target.shape} and {mask.shape}."
    )
  valid = mask > 0
  prediction, target = jnp.where(valid, jnp.maximum(prediction, 1e-3), 1), jnp.where(valid, target, 1)
  count = valid.sum((1, 2, 3))

  def mean(values):
    return jnp.where(valid, values, 0).sum((1, 2, 3)) / count

  error = prediction - target
  ratio = jnp.maximum(prediction / target, target / prediction)
  log_error = jnp.log(prediction) - jnp.log(target)
  log_mean = mean(log_error)
  return {
    "rmse": jnp.sqrt(mean(jnp.square(error))),
    "mae": mean(jnp.abs(error)),
    "abs_rel": mean(jnp.abs(error) / target),
    **{f"delta{power}": mean(ratio < 1.25**power) for power in (1, 2, 3)},
    "silog": 100 * jnp.sqrt(mean(jnp.square(log_error - log_mean[:, None, None, None]))),
  }


def measure(
  prediction: jax.Array,
  x: jax.Array,
  target: jax.Array,
  mask: jax.Array | None,
  input_signal: Signal,
  target_signal: Signal,
) -> dict[str, jax.Array]:
  """Every metric that applies to the target's signal, each (N,), for arrays in [-1, 1].

  These are the image metrics; for one-channel depth also the depth metrics; and if the input is depth too, `hole_rmse`
  and `hole_mae`, over the pixels where the input has no measurement. A metric is NaN for an image without a pixel to
  count.
  """
  values = image_metrics(prediction, target, mask)
  if target_signal.kind == "depth" and target.shape[-1] == 1:
    assert mask is not None
    metres = target_signal.decode(prediction), target_signal.decode(target)
    values |= depth_metrics(*metres, mask)
    measured = input_signal.measured(x)
    if measured is not None:
      holes = depth_metrics(*metres, mask * ~measured)
      values |= {f"hole_{name}": holes[name] for name in ("rmse", "mae")}
  return values
