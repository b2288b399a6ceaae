"""The start of a run: settings are checked and completed, data prepared, and programs loaded or compiled in threads."""

from pathlib import Path

import jax
import ml_collections

from pix2pix_jax import config as config_lib
from pix2pix_jax import output
from pix2pix_jax.data import pipeline, prepare
from pix2pix_jax.data.source import Source
from pix2pix_jax.run import evaluation, experiment, feeding, fine_tuning, processes, replicas
from pix2pix_jax.run.experiment import Experiment


def settle(
  config: ml_collections.ConfigDict, workdir: Path, source: Source | None
) -> tuple[Experiment, Source, config_lib.Changes]:
  """The experiment of a start in a workdir, its data, and the fields that differ from the start before.

  Raises:
    UsageError: invalid data, sizes or fields, or a workdir with another architecture.
  """
  config_lib.check(config)
  experiment.use_compilation_cache(config.train.compilation_cache)
  replicas.check(config)
  experiment.check_batch_size(config.train.batch_size)
  asked = config.train.init_from
  config, old = recall(config, workdir)
  if old and asked and not fine_tuning.is_same(asked, config.train.init_from) and processes.is_main():
    output.say(
      f"Warning: --init_from={asked} is ignored: {workdir} has been trained already, and resumes from its own "
      "checkpoint. To start from other networks, use a new --workdir."
    )
  with output.stage("Preparing the data"), processes.main_first("prepare"):
    source = source or prepare.prepare(config.data, config.model)
  config = config_lib.resolve(config, source.spec)
  changes = config_lib.differences(old, config) if old else {}
  if old:
    config_lib.require_same_model(workdir, old, config)
  return Experiment(config, source.spec), source, changes


def recall(
  config: ml_collections.ConfigDict, workdir: Path
) -> tuple[ml_collections.ConfigDict, ml_collections.ConfigDict | None]:
  """`config.keep_recorded` for a workdir that has been trained; for a new one, what `train.init_from` determines.

  Raises:
    UsageError: a wrong `train.init_from` of a new run.
  """
  config, old = config_lib.keep_recorded(config, workdir)
  return (config if old else fine_tuning.adopt(config)), old


def begin_drawing(run: Experiment, workdir: Path) -> None:
  """Begins to load the program that draws the networks, if it is kept and the workdir has no checkpoints.

  It is not compiled so early, because an error in the data would then end the process only after that.
  """
  if not any((workdir / "checkpoints").glob("*")) and run.draw.is_kept():
    run.draw.start()


def begin(run: Experiment, start: int, train: pipeline.Split, validation: pipeline.Split | None) -> None:
  """Begins to load or compile the steps of training and evaluation.

  Does nothing if no step is left after `start`, or with several processes, which compile in the order of their calls.
  """
  if start >= run.config.train.num_steps or jax.process_count() > 1:
    return
  state, shape = run.abstract(), (*run.stacked, run.config.train.batch_size, *config_lib.crop_shape(run.config.data))
  batch = {name: jax.ShapeDtypeStruct((*shape, train.channels(name)), "float32") for name in train.names}
  if feeding.is_host(run.config.train):
    run.train_step.start(state, batch)
  if validation:
    run.eval_step.start(state.variables, evaluation.first_batch(run, validation))
