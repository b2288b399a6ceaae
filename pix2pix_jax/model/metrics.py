"""Metrics of images on [0, 1] (from `dm_pix`) and of depth in metres: one value per image; the caller averages."""

from typing import Any

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np

from pix2pix_jax.signals import Quantity, Signal

CONFUSION = "confusion"  # not a metric, but the counts from which those of classes are computed
CLASS_METRICS = ("mean_iou", "pixel_accuracy", "class_accuracy")
HIGHER_IS_BETTER = ("psnr", "ssim", "delta1", "delta2", "delta3", *CLASS_METRICS)  # for all others, lower is better

_IN_TARGET_UNIT = ("rmse", "mae", "hole_rmse", "hole_mae")
_UNITS = {"psnr": "dB", "irmse": "1/km", "imae": "1/km"}
MAX_PSNR = 120.0  # dB; that of identical images would be infinite


def unit_of(metric: str, target_unit: str) -> str:
  """The unit of a metric's values; `target_unit` is that of the target. Empty if it has none."""
  return target_unit if metric in _IN_TARGET_UNIT else _UNITS.get(metric, "")


def to_unit(image: jax.Array) -> jax.Array:
  """[-1, 1] → [0, 1]."""
  return jnp.clip((image + 1) / 2, 0, 1)


def image_metrics(
  prediction: jax.Array, target: jax.Array, mask: jax.Array | None = None, inside: jax.Array | None = None
) -> dict[str, jax.Array]:
  """`l1`, `psnr` (dB, at most 120) and `ssim` of images (N, H, W, C) in [-1, 1], each (N,), on the [0, 1] scale.

  SSIM (Wang et al. 2004) has an 11×11 Gaussian window, σ 1.5. With a `mask` (N, H, W, 1), L1 and PSNR count
  only its valid pixels (NaN for an image without any), and SSIM, which needs whole windows, is left out. `inside` as in
  `measure`.
  """
  prediction, target = to_unit(prediction), to_unit(target)
  window = min(11, *target.shape[1:3])
  if mask is None and inside is None:
    return {
      "l1": jnp.abs(prediction - target).mean((1, 2, 3)),
      "psnr": jnp.minimum(dm_pix.psnr(prediction, target), MAX_PSNR),
      "ssim": dm_pix.ssim(prediction, target, filter_size=window),
    }
  counted = jnp.asarray(inside if mask is None else mask)
  count = counted.sum((1, 2, 3)) * target.shape[-1]  # 0 / 0 is NaN where no pixel is valid
  squared = (jnp.square(prediction - target) * counted).sum((1, 2, 3)) / count
  values = {
    "l1": (jnp.abs(prediction - target) * counted).sum((1, 2, 3)) / count,
    "psnr": jnp.minimum(-10 * jnp.log10(squared), MAX_PSNR),
  }
  if mask is None and inside is not None:
    ssim = dm_pix.ssim(prediction, target, filter_size=window, return_map=True).mean(-1, keepdims=True)
    weight = _whole_windows(inside, window)
    values["ssim"] = (ssim * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3))
  return values


def _whole_windows(inside: jax.Array, window: int) -> jax.Array:
  """1 for every SSIM window, in the order of its map, that lies inside images at the top left corner of `inside`."""
  return inside[:, window - 1 :, window - 1 :]


def depth_metrics(prediction: jax.Array, target: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
  """Errors of depth (N, H, W, 1) in metres over the pixels where `mask` is 1, each (N,); NaN for an image without any.

  `rmse` and `mae` in metres; `abs_rel` the mean of |error| / target; `delta1`, `delta2`, `delta3` the shares of pixels
  whose ratio to the target is below 1.25, 1.25², 1.25³ (Eigen et al. 2014, arXiv 1406.2283); `silog` the standard
  deviation of the logarithmic error times 100; `irmse` and `imae` the errors of the inverse depth in 1/km. KITTI's
  servers define the last three, and `rmse` and `mae` in mm. Predictions below one millimetre count as one millimetre,
  in the inverse depth below 1/256 m as 1/256 m, the least that KITTI's files hold.
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
  inverse_error = 1000 / jnp.maximum(prediction, 1 / 256) - 1000 / target
  return {
    "rmse": jnp.sqrt(mean(jnp.square(error))),
    "mae": mean(jnp.abs(error)),
    "abs_rel": mean(jnp.abs(error) / target),
    **{f"delta{power}": mean(ratio < 1.25**power) for power in (1, 2, 3)},
    "silog": 100 * jnp.sqrt(mean(jnp.square(log_error - log_mean[:, None, None, None]))),
    "irmse": jnp.sqrt(mean(jnp.square(inverse_error))),
    "imae": mean(jnp.abs(inverse_error)),
  }


def quantity_metrics(
  prediction: jax.Array, target: jax.Array, mask: jax.Array, signal: Quantity, inside: jax.Array | None = None
) -> dict[str, jax.Array]:
  """Errors of a quantity (N, H, W, C) in [-1, 1] over the pixels where `mask` (N, H, W, 1) is 1, each (N,); NaN for an
  image without any.

  `mae` and `rmse` in the unit, over all channels; `ssim` over the range, as for images. Its windows see no difference
  at pixels without a value, and those that are centred at such a pixel do not count. `inside` as in `measure`.
  """
  valid = mask > 0
  error = jnp.where(valid, signal.decode_float(prediction) - signal.decode_float(target), 0)
  count = valid.sum((1, 2, 3)) * target.shape[-1]
  shown = [jnp.where(valid, to_unit(image), 0) for image in (prediction, target)]
  window = min(11, *target.shape[1:3])
  ssim = dm_pix.ssim(*shown, filter_size=window, return_map=True)
  top, left = ((size - inner) // 2 for size, inner in zip(target.shape[1:3], ssim.shape[1:3]))
  weight = mask[:, top : top + ssim.shape[1], left : left + ssim.shape[2]]
  if inside is not None:
    weight *= _whole_windows(inside, window)
  return {
    "mae": jnp.abs(error).sum((1, 2, 3)) / count,
    "rmse": jnp.sqrt(jnp.square(error).sum((1, 2, 3)) / count),
    "ssim": (ssim.mean(-1, keepdims=True) * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3)),
  }


def confusion(prediction: jax.Array, target: jax.Array, mask: jax.Array | None) -> jax.Array:
  """Numbers of pixels by class, (N, target class, predicted class), of one-hot targets and scores (N, H, W, classes).

  Only pixels where `mask` (N, H, W, 1) is 1 count.
  """
  count = target.shape[-1]
  predicted = (prediction.argmax(-1)[..., None] == jnp.arange(count)).astype(jnp.float32)
  labels = (target > 0).astype(jnp.float32) * (1 if mask is None else mask)
  return jnp.einsum("nhwt,nhwp->ntp", labels, predicted, precision="highest")


def class_metrics(counts: Any) -> dict[str, Any]:
  """Metrics of confusion matrices (..., target class, predicted class), NumPy or JAX; NaN if no pixel has a label.

  `pixel_accuracy`: share of the pixels classified correctly. `class_accuracy`: its mean over the classes that occur in
  the targets. `mean_iou`: intersection over union, averaged over the classes that occur in targets or predictions
  (Long et al. 2015, arXiv 1411.4038).
  """
  xp = jnp if isinstance(counts, jax.Array) else np
  correct = xp.diagonal(counts, axis1=-2, axis2=-1)
  of_target, of_prediction = counts.sum(-1), counts.sum(-2)
  union = of_target + of_prediction - correct

  def mean_over(values, occurs):
    return xp.where(occurs, values, 0).sum(-1) / xp.where(of_target.sum(-1) > 0, occurs.sum(-1), np.nan)

  return {
    "mean_iou": mean_over(correct / xp.maximum(union, 1), union > 0),
    "pixel_accuracy": correct.sum(-1) / xp.where(of_target.sum(-1) > 0, of_target.sum(-1), np.nan),
    "class_accuracy": mean_over(correct / xp.maximum(of_target, 1), of_target > 0),
  }


def measure(
  prediction: jax.Array,
  x: jax.Array,
  target: jax.Array,
  mask: jax.Array | None,
  input_signal: Signal,
  target_signal: Signal,
  inside: jax.Array | None = None,
) -> dict[str, jax.Array]:
  """Every metric that applies to the target's signal, each (N,), for arrays in [-1, 1].

  For classes, these are the class metrics of each image and its `confusion` (N, classes, classes), from which those of
  a split are computed; for a quantity the image metrics and those of `quantity_metrics`. Otherwise they are the image
  metrics; for one-channel depth also the depth metrics; and if the input is depth too, `hole_rmse`
  and `hole_mae`, over the pixels where the input has no measurement. A metric is NaN for an image without a pixel to
  count.

  Images that were padded at the bottom and right have `inside` (N, H, W, 1), which is 1 for their pixels and 0 for the
  padding, where `mask` has to be 0 too; their metrics are those of the images without padding.
  """
  if target_signal.kind == "classes":
    counts = confusion(prediction, target, inside if mask is None else mask)
    return {**class_metrics(counts), CONFUSION: counts}
  values = image_metrics(prediction, target, mask, inside)
  if isinstance(target_signal, Quantity):
    assert mask is not None
    values |= quantity_metrics(prediction, target, mask, target_signal, inside)
  if target_signal.kind == "depth" and target.shape[-1] == 1:
    assert mask is not None
    metres = target_signal.decode(prediction), target_signal.decode(target)
    values |= depth_metrics(*metres, mask)
    measured = input_signal.measured(x)
    if measured is not None:
      holes = depth_metrics(*metres, mask * ~measured)
      values |= {f"hole_{name}": holes[name] for name in ("rmse", "mae")}
  return values
