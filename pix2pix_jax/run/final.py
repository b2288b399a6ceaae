"""The end of a run: the validation of its last step, beside baselines, in `eval/val`."""

import dataclasses
from pathlib import Path

import ml_collections

from pix2pix_jax import output, signals
from pix2pix_jax.data import pipeline
from pix2pix_jax.model import metrics
from pix2pix_jax.model.state import TrainState
from pix2pix_jax.run import baselines, evaluation, processes
from pix2pix_jax.run.evaluation import Evaluation
from pix2pix_jax.run.experiment import Experiment
from pix2pix_jax.run.reporter import Reporter


@dataclasses.dataclass
class Progress:
  """How far a run has come.

  Attributes:
    state: the state after `step`.
    step: the last step that is done.
    evaluation: its validation, if there was one.
    best: step and score of the best validation so far.
    interrupted: whether a signal asked the run to stop.
  """

  state: TrainState
  step: int
  evaluation: Evaluation | None = None
  best: tuple[int, float] | None = None
  interrupted: bool = False


def is_missing(workdir: Path, step: int, config: ml_collections.ConfigDict) -> bool:
  """Whether `eval/val` is not that of a step on the data of `config`, because a start was stopped before writing it."""
  stored, content = evaluation.read_summary(workdir / "eval" / "val"), config.data.fingerprint
  return stored.get("step") != step or not signals.same_data(stored.get("fingerprint", content), content)


def evaluate(
  run: Experiment,
  progress: Progress,
  source: pipeline.Source,
  split: pipeline.Split,
  workdir: Path,
  reporter: Reporter,
) -> None:
  """Writes the validation of the last step to `eval/val`.

  Raises:
    KeyboardInterrupt: interrupted before the end, which a line has told.
  """
  folder, step = workdir / "eval" / "val", progress.step
  try:
    if progress.interrupted:
      raise KeyboardInterrupt
    reporter.say(f"Final evaluation: comparing {output.counted(len(split), 'validation image')} with baselines …")
    with output.stage("Final evaluation"):
      result = progress.evaluation or evaluation.evaluate_split(run, progress.state.variables, split)
      if not processes.is_main():
        return
      compared = baselines.measure(source, split, run.config)
      evaluation.write(folder, result, split.ids, step, run.config, compared)
  except KeyboardInterrupt:
    told = f"Interrupted after the last step, {step}, which is saved. Run the same command for the final evaluation."
    reporter.say(told)
    raise KeyboardInterrupt(told) from None
  columns = {"mean": result.means, "± std": result.spreads} if result.others else {"model": result.means}
  table = evaluation.table({**columns, **compared}, run.spec.target.unit)
  reporter.say(f"Validation at the last step, {output.counted(len(split), 'image')}:\n{table}")
  metric = run.config.train.best_metric
  if warning := _not_better(metric, result.means, compared):
    reporter.say(warning)
  if progress.best:
    score = f"{progress.best[1]:.4f} {metrics.unit_of(metric, run.spec.target.unit)}".rstrip()
    mean = " (mean of the replicas)" if result.others else ""
    reporter.say(f"Best validation {metric}{mean}: {score} at step {progress.best[0]}.")


def _not_better(metric: str, means: dict[str, float], compared: dict[str, dict[str, float]]) -> str:
  """A line if a baseline is at least as good as the model; else empty."""
  sign = -1 if metric in metrics.HIGHER_IS_BETTER else 1
  scores = {name: values[metric] for name, values in compared.items() if metric in values}
  if metric not in means or not scores:
    return ""
  name = min(scores, key=lambda each: sign * scores[each])
  if sign * means[metric] < sign * scores[name]:
    return ""
  return (
    f"By {metric}, the model ({means[metric]:.4f}) is no better than {name} ({scores[name]:.4f}). Train longer, or "
    'look at the pairs with "pix2pix_jax inspect".'
  )
