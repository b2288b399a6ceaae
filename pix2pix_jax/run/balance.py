"""Notices a discriminator that no longer teaches the generator anything."""

from collections.abc import Mapping

ROWS, STEPS = 5, 500  # log lines in a row, and steps that they have to cover
WON = 0.995  # accuracy on both real and generated images
COLLAPSED = 0.005  # smallest share of one of the two answers

_ADVICE = {
  "won": "The discriminator has told targets from outputs without an error for {steps} steps, so the generator learns "
  "little from it. If the outputs do not improve, try loss.r1_weight=10 or loss.gan=lsgan, a smaller "
  "model.discriminator_features, or more training data.",
  "collapsed": "The discriminator has given the same answer for targets and outputs for {steps} steps, so the "
  "generator learns nothing from it. Try a lower optimizer.learning_rate, loss.gan=lsgan, or another seed.",
}


class Balance:
  """Follows the discriminator's accuracies over the log lines of a run."""

  def __init__(self) -> None:
    self._state, self._since, self._rows = "", 0, 0
    self._told: set[str] = set()

  def look(self, step: int, scalars: Mapping[str, float]) -> str:
    """What to tell the user after a log line; empty if there is nothing new to say.

    Args:
      step: the step of the log line.
      scalars: its means since the line before, with the accuracies if the loss is adversarial.
    """
    real = scalars.get("train/discriminator_accuracy_real")
    fake = scalars.get("train/discriminator_accuracy_fake")
    if real is None or fake is None:
      return ""
    says_real = (real + 1 - fake) / 2  # share of patches that are called real; half of them are
    state = "won" if min(real, fake) >= WON else "collapsed" if not COLLAPSED < says_real < 1 - COLLAPSED else ""
    if state != self._state:
      self._state, self._since, self._rows = state, step, 0
    self._rows += 1
    if not state or state in self._told or self._rows < ROWS or step - self._since < STEPS:
      return ""
    self._told.add(state)
    return _ADVICE[state].format(steps=step - self._since)
