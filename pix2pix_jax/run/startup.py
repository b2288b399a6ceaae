"""The start of a run: its programs are loaded or compiled in threads while data are read and the networks are drawn."""

from pathlib import Path

import jax

from pix2pix_jax import config as config_lib
from pix2pix_jax.data import pipeline
from pix2pix_jax.run import evaluation, feeding
from pix2pix_jax.run.experiment import Experiment


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
  state, rows = run.abstract(), run.config.train.batch_size
  batch = {
    name: jax.ShapeDtypeStruct((rows, *config_lib.crop_shape(run.config.data), train.channels(name)), "float32")
    for name in train.names
  }
  if feeding.is_host(run.config.train):
    run.train_step.start(state, batch)
  if validation:
    run.eval_step.start(state.variables, evaluation.first_batch(run, validation))
