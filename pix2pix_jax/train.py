"""The training loop: data, experiment, resume, steps, validation and checkpoints, in the order in which they happen."""

from __future__ import annotations

import functools
from pathlib import Path

import jax
import ml_collections

from pix2pix_jax import config as config_lib
from pix2pix_jax import output
from pix2pix_jax.data import pipeline, summary
from pix2pix_jax.errors import user_path
from pix2pix_jax.model.state import TrainState
from pix2pix_jax.run import checkpoint, evaluation, final, fine_tuning, lock, loggers, processes, startup
from pix2pix_jax.run.evaluation import Evaluation
from pix2pix_jax.run.experiment import Experiment
from pix2pix_jax.run.feeding import open_feed, schedule
from pix2pix_jax.run.final import Progress
from pix2pix_jax.run.finite import require_finite_state
from pix2pix_jax.run.reporter import Reporter, make_writer
from pix2pix_jax.run.stopping import StopOnSignal
from pix2pix_jax.run.storage import explained


def train_and_evaluate(
  config: ml_collections.ConfigDict,
  workdir: str | Path,
  *,
  source: pipeline.Source | None = None,
  observer: Observer | None = None,
) -> TrainState:
  """Trains to the config's last step, resuming from the newest checkpoint in `workdir` if there is one.

  Writes to `workdir`: config.json, checkpoints/, TensorBoard events, history.jsonl, samples/, curves.png, eval/val/.

  Args:
    config: as `config.load` returns it.
    workdir: folder of the run; created if needed.
    source: where the pairs come from; None: as `config.data` describes.
    observer: called before and after every step; it may end the run. Each step then has a dispatch of its own.

  Raises:
    UsageError: invalid data, sizes or fields, a workdir with another architecture, or a loss that became NaN.
    KeyboardInterrupt: after Ctrl-C or SIGTERM, once the state is saved.
  """
  workdir = user_path("--workdir", workdir)
  run, source, changes = startup.settle(config, workdir, source)
  config, data, val_split = run.config, run.config.data, None
  processes.require_equal(config_lib.shared_fields(config))
  with processes.main_first("workdir"):
    config_lib.make_workdir(workdir)
  startup.begin_drawing(run, workdir)
  with output.stage("Reading the data"):
    train_split = pipeline.load_split(source, "train", config_lib.load_shape(data), cache_gib=data.cache_gib)
    if "val" in source.spec.counts:
      cache_gib = data.cache_gib if jax.process_count() == 1 else 0  # else every process would decode all images
      val_split = pipeline.load_split(source, "val", config_lib.eval_resize(data), cache_gib=cache_gib)
  if processes.is_main():
    output.say(summary.describe(source, config))

  locked = lock.held(workdir, by_this_process=processes.is_main())
  with explained(workdir), locked, checkpoint.Checkpointer(workdir, config=config) as checkpointer:
    start = checkpointer.latest_step()
    startup.begin(run, start or 0, train_split, val_split)
    with output.stage("Initializing the networks" if start is None else "Restoring the networks"):
      if start is None:
        state = fine_tuning.initial_state(run)
      else:
        start, state = checkpointer.restore_newest(run.abstract())
    finished = (done := start or 0) >= config.train.num_steps
    if finished and (config_lib.shared(changes) or not (val_split and final.is_missing(workdir, done, config))):
      output.say(_describe_finished(done, config, changes, note="; nothing was changed"))
      if "train.ema_decay" in changes:
        state = checkpointer.restore(done, checkpointer.as_stored(done, run.abstract()))
      return state
    if processes.is_main() and not finished:
      config_lib.write(workdir, config)  # only now, so that a failed start leaves the old file
      config_lib.record_changes(workdir, done, changes)
    writer, logger = make_writer(workdir, config), loggers.make(config.train.logger, config.to_dict(), workdir)
    unit = run.spec.target.unit
    with Reporter(writer, workdir, start=done, config=config.train, logger=logger, unit=unit) as reporter:
      reporter.say(_describe(run, start, changes, starts_over=checkpointer.starts_over()))
      progress = _loop(run, state, start, (train_split, val_split), checkpointer, reporter, observer)
      if progress.step < config.train.num_steps:
        reporter.say(f"Stopped at step {progress.step} of {config.train.num_steps}; run the same command to resume.")
      elif val_split:
        final.evaluate(run, progress, source, val_split, workdir, reporter)
  if progress.interrupted and progress.step < config.train.num_steps:
    raise KeyboardInterrupt("stopped, as a line has told")
  written = "checkpoints/, curves.png, samples/ and eval/" if val_split else "checkpoints/ and curves.png"
  scalars = f"tensorboard --logdir={workdir}" if config.train.tensorboard else "history.jsonl"
  reporter.say(f"{written} are in {workdir}; for all scalars: {scalars}")
  return progress.state


def _loop(
  run: Experiment,
  state: TrainState,
  start: int | None,
  splits: tuple[pipeline.Split, pipeline.Split | None],
  checkpointer: checkpoint.Checkpointer,
  reporter: Reporter,
  observer: Observer | None,
) -> Progress:
  """Trains, validates and saves from `start` until the last step, a signal, or the observer's request to stop."""
  train, (train_split, val_split) = run.config.train, splits
  progress = Progress(state, start or 0, best=checkpointer.best())
  feed = open_feed(run, train_split, progress.step, every_step=observer is not None)
  observer = observer or Observer()
  if feed.note:
    reporter.say(feed.note)
  if val_split and not start:  # the untrained networks: curves begin here, and data errors surface immediately
    reporter.say(f"Validating the initial networks on {output.counted(len(val_split), 'image')} …")
    with output.stage("Validating the initial networks"):
      untrained = evaluation.evaluate_split(run, state.variables, val_split)
    reporter.validated(0, untrained)
  if progress.step < train.num_steps:
    reporter.say("Compiling the training step …")
  with StopOnSignal() as stop:
    for step, count in schedule(train, progress.step, feed.per_dispatch):
      with reporter.data_wait():
        taken = feed.take(count)
      observer.step_begins(step)
      state, metrics = feed.train(state, taken)
      last = step == train.num_steps
      stopping = stop.agreed(run.split_rows)  # read once, so that a signal during validation cannot end the run unsaved
      reporter.trained(step, metrics, last=last or stopping, at_log=functools.partial(run.update_norms, state))
      if stopping:
        reporter.say(f"Interrupted: saving step {step} …")

      with reporter.pause():
        validation, improved = None, False
        if val_split and (last or step % train.eval_every_steps == 0):
          with reporter.validating():
            validation = evaluation.evaluate_split(run, state.variables, val_split)
          reporter.validated(step, validation)
          score = validation.means.get(train.best_metric)
          if score is not None and not (progress.best and checkpointer.is_better(progress.best[1], score)):
            progress.best, improved = (step, score), True
        stopping |= observer.step_ended(step, metrics, validation)
        kept = train.keep_every_steps and step % train.keep_every_steps == 0
        if improved or last or stopping or kept or step % train.checkpoint_every_steps == 0:
          require_finite_state(step, state, metrics)
          if last and not stop.asked:
            reporter.say(f"Saving step {step} …")  # a slow disk takes a while
          checkpointer.save(step, state, validation.scalars if validation else None)
      progress.state, progress.step, progress.evaluation = state, step, validation
      if stopping:
        break
    progress.interrupted = stop.asked
  return progress


class Observer:
  """Hooks that run before and after every step; these do nothing."""

  def step_begins(self, step: int) -> None:
    """Called before step `step`, counted from 1."""

  def step_ended(self, step: int, metrics: dict[str, jax.Array], validation: Evaluation | None) -> bool:
    """Called after the step, with metrics that are still on the devices. Returning True saves and ends the run."""
    return False


def _describe_finished(
  start: int, config: ml_collections.ConfigDict, changes: config_lib.Changes, note: str = ""
) -> str:
  """Says that nothing is left to train, and which fields of this start were therefore ignored."""
  more = "Raise train.num_epochs (or train.num_steps) to train further."
  lines = [f"Already finished: {start} of {config.train.num_steps} steps{note}. {more}"]
  if changes:
    lines.append(f"This command differs from the run and was ignored: {config_lib.describe_changes(changes)}.")
  return "\n".join(lines)


def _describe(run: Experiment, start: int | None, changes: config_lib.Changes, *, starts_over: bool) -> str:
  """What is trained, in a few lines. `starts_over`: whether no validation so far can be compared with those to come."""
  if start is not None and start >= run.config.train.num_steps:
    return _describe_finished(start, run.config, changes)
  lines = [] if start is None else [f"Resuming from step {start}."]
  if changes:
    lines.append(f"Changed since the last start: {config_lib.describe_changes(changes)}.")
  if "data.fingerprint" in changes:
    lines.append(
      f"Warning: the first {start} steps were trained on other data. This run continues with the new data, and the "
      "search for the best checkpoint starts over. If that is not intended, press Ctrl-C and use a new --workdir; "
      "--init_from starts it from these networks."
    )
  elif starts_over:
    lines.append(
      "Warning: earlier validations used other data or another protocol. The search for the best checkpoint starts "
      "over, and the best one so far is not kept."
    )
  return "\n".join([*lines, *run.describe(), *(run.describe_parameters() if output.is_verbose() else [])])
