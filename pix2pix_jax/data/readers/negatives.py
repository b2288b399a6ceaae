"""Negative numbers in depth: a marker of missing measurements, or a sign that the numbers are something else."""

import numpy as np

from pix2pix_jax.errors import UsageError


class Negatives:
  """Counts the negative values of raw depth.

  Negative depth counts as not measured. One negative value, such as -1, is a common marker of that. Several different
  ones are more likely to be Hounsfield units, elevations or differences, which would be lost.
  """

  def __init__(self) -> None:
    self._values = self._negative = 0
    self._lowest, self._highest = np.inf, -np.inf  # of the negative values

  def add(self, raw: np.ndarray) -> None:
    """An array as its file holds it."""
    values = raw[np.isfinite(raw) & (raw != 0)]
    negative = values[values < 0]
    self._values += values.size
    self._negative += negative.size
    if negative.size:
      self._lowest = min(self._lowest, float(negative.min()))
      self._highest = max(self._highest, float(negative.max()))

  def merge(self, other: "Negatives") -> None:
    """Adds what another one has counted."""
    self._values += other._values
    self._negative += other._negative
    self._lowest, self._highest = min(self._lowest, other._lowest), max(self._highest, other._highest)

  @property
  def _share(self) -> float:
    """The share of negative values among all that are finite and not zero; 0 if they are a single marker."""
    return self._negative / self._values if self._lowest < self._highest else 0.0

  def check(self, name: str, field: str) -> None:
    """Raises UsageError if most values are negative; the message starts with `name` and names the kind's `field`."""
    if self._share > 0.5:
      raise UsageError(
        f"{name} is declared as depth, but {self._share:.0%} of its values are negative, down to {self._lowest:g}, and "
        f"would count as not measured. Depth is positive metres: choose another {field}, or convert the files."
      )

  def note(self, name: str) -> str:
    """A warning about negative values, or an empty string if there are hardly any; `name` is part of its sentence."""
    if self._share < 0.01:
      return ""
    return (
      f"Warning: {self._share:.0%} of the values of {name} are negative, down to {self._lowest:g}; as depth they count "
      "as not measured."
    )
