"""Checks that a run's numbers are finite, so that a broken state never replaces a good checkpoint."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pix2pix_jax.errors import UsageError


def require_finite(step: int, scalars: Mapping[str, Any]) -> None:
  """Ends a run whose numbers became NaN or infinite, before they replace the last good checkpoint.

  A scalar may be an array of its values in the steps up to this one.

  Raises:
    UsageError: names the scalars that are not finite.
  """
  broken = [name for name, value in scalars.items() if not np.isfinite(value).all()]
  broken = [name for name in broken if "/replica_" in name] or broken  # without their mean and spread
  if broken:
    raise UsageError(
      f"At step {step}, {', '.join(broken)} became NaN or infinite. This step was not saved; earlier checkpoints are "
      "intact. Lower optimizer.learning_rate or loss.l1_weight, set optimizer.clip_norm, check the data for NaN, or "
      "try train.dtype=float32. The same command with --debug finds the first broken step and saves its batch."
    )


def require_finite_state(step: int, state: Any, metrics: Mapping[str, jax.Array]) -> None:
  """Checks the metrics of a step, and the parameters and optimizer states after it.

  Raises:
    UsageError: one of these numbers is NaN or infinite.
  """
  require_finite(step, jax.device_get(metrics))
  if not has_finite_norm(state):
    require_finite(step, {"a network's parameters or optimizer state": float("nan")})


@jax.jit
def has_finite_norm(tree: Any) -> jax.Array:
  """Whether the Euclidean norm of all floating-point numbers in a tree is finite in float32.

  It is not finite if one of them is NaN, infinite, or beyond about 1e19, from where no network recovers.
  """
  leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
  return jnp.isfinite(jnp.stack([jnp.sum(jnp.square(leaf)) for leaf in leaves]).sum())
