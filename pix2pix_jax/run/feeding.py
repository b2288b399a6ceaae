"""Where the batches of a run come from, and how many steps run in one dispatch.

The host makes every batch, and steps are dispatched one by one; or the training split is kept on the devices, which
make the batches of several steps and train on them in one dispatch (`lax.scan`).
"""

from collections.abc import Callable, Iterator
import functools
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np

from pix2pix_jax import config as config_lib
from pix2pix_jax import output
from pix2pix_jax.data import pipeline, resident
from pix2pix_jax.errors import UsageError
from pix2pix_jax.model.state import TrainState
from pix2pix_jax.model.steps import Metrics
from pix2pix_jax.run import replicas
from pix2pix_jax.run.experiment import Experiment

STEPS_PER_DISPATCH = 10  # on a GPU or TPU, if train.steps_per_dispatch is 0
MEMORY_SHARE = 0.25  # of a device's memory, which a split may fill if train.data_on_device is auto


class HostFeed:
  """Batches that the host makes, for one step each.

  Attributes:
    per_dispatch: steps in one dispatch, at most.
    note: what a run says about its feed; empty if there is nothing to say.
  """

  per_dispatch = 1

  def __init__(self, run: Experiment, split: pipeline.Split, start: int, note: str):
    self._run, self.note = run, note
    train = run.config.train
    make = functools.partial(
      pipeline.train_batches, split, run.config.data, batch_size=train.batch_size, start_step=start
    )
    self._batches = pipeline.to_devices(_for_each_seed(run, make), run.split_rows)

  def take(self, count: int) -> Any:
    """What the next `count` steps are computed from, on the devices."""
    assert count == 1
    return next(self._batches)

  def train(self, state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
    """The state after these steps, and their metrics."""
    return self._run.train_step(state, batch)


class DeviceFeed:
  """The same for a split on the devices, each of which holds all of it and makes its own rows of every batch."""

  def __init__(self, run: Experiment, split: pipeline.Split, packed: resident.Packed, start: int, per_dispatch: int):
    self._run, self.per_dispatch = run, per_dispatch
    config = run.config
    place = "the device" if run.mesh.size == 1 else "every device"
    self.note = f"Data: {_gib(packed)} on {place}, {output.counted(per_dispatch, 'step')} per dispatch."
    self._packed = jax.device_put(packed, run.replicated)
    draw = functools.partial(
      pipeline.train_draws, split, config.data, batch_size=config.train.batch_size, start_step=start
    )
    self._draws = _for_each_seed(run, draw)
    self._draws_split = NamedSharding(run.mesh, PartitionSpec(None, "data"))
    make_batch = functools.partial(resident.make_batch, spec=split.spec, crop=config_lib.crop_shape(config.data))
    make_batch = jax.vmap(make_batch, (None, 0)) if run.stacked else make_batch
    self._make_batch = jax.jit(make_batch, out_shardings=run.split_rows)

  def take(self, count: int) -> jax.Array:
    return jax.device_put(np.stack([next(self._draws) for _ in range(count)]), self._draws_split)

  def train(self, state: TrainState, draws: jax.Array) -> tuple[TrainState, Metrics]:
    if len(draws) == 1:  # the very programs of the host's batches, so that the parameters have the same bits
      return self._run.train_step(state, self._make_batch(self._packed, draws[0]))
    return self._scan(state, self._packed, draws)

  @functools.cached_property
  def _scan(self) -> Any:
    """A compiled function from a state, the data and the draws of several steps to the state after them and their
    metrics, each (steps,).
    """

    # Not `self`: JAX keeps what it compiled, and with it would keep the data and the reader to the end of the program,
    # where TensorFlow's threads can no longer be stopped.
    train_step, make_batch = self._run.train_step, self._make_batch

    def scan(state, packed, draws):
      return jax.lax.scan(lambda state, drawn: train_step(state, make_batch(packed, drawn)), state, draws)

    replicated = self._run.replicated
    compiled = jax.jit(
      scan,
      in_shardings=(replicated, replicated, self._draws_split),
      out_shardings=(replicated, replicated),
      donate_argnums=0,
    )
    return self._run.program("scan", compiled)


def _for_each_seed(run: Experiment, make: Callable[..., Iterator[Any]]) -> Iterator[Any]:
  """What `make` yields for the run's seed or, stacked, for the seed of each replica."""
  if not run.stacked:
    return make(seed=run.config.seed)
  each = [make(seed=seed) for seed in replicas.seeds(run.config)]
  return (jax.tree.map(lambda *arrays: np.stack(arrays), *together) for together in zip(*each))


Feed = HostFeed | DeviceFeed


def open_feed(run: Experiment, split: pipeline.Split, start: int, *, every_step: bool) -> Feed:
  """The feed of a run from a step on, as `train.data_on_device` and `train.steps_per_dispatch` ask.

  Args:
    run: the experiment.
    split: the training split at the load shape.
    start: number of steps that earlier starts have trained.
    every_step: whether every step needs a dispatch of its own.

  Raises:
    UsageError: the split has to be kept on the devices, but cannot.
  """
  train, is_cpu = run.config.train, jax.default_backend() == "cpu"
  if is_host(train):
    return HostFeed(run, split, start, note="")
  obstacle = "several processes share a batch" if jax.process_count() > 1 else resident.obstacle(split, run.config.data)
  if not obstacle:
    packed = resident.pack(split)
    obstacle = _too_large(packed) if train.data_on_device == "auto" else ""
    if not obstacle:
      per_dispatch = train.steps_per_dispatch or (1 if is_cpu else STEPS_PER_DISPATCH)
      return DeviceFeed(run, split, packed, start, 1 if every_step else per_dispatch)
  if train.data_on_device == "yes":
    raise UsageError(f"train.data_on_device is 'yes', but {obstacle}. With 'auto', the host makes the batches.")
  return HostFeed(run, split, start, note=f"Data: the host makes the batches, because {obstacle}.")


def is_host(train: Any) -> bool:
  """Whether the config's `train` section leaves the batches to the host."""
  return train.data_on_device == "no" or (train.data_on_device == "auto" and jax.default_backend() == "cpu")


def _too_large(packed: resident.Packed) -> str:
  """The obstacle of data that fill much of a device's memory; empty if they do not, or if the memory is unknown."""
  limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", np.inf)
  if sum(array.nbytes for array in packed.values()) <= MEMORY_SHARE * limit:
    return ""
  return f"{_gib(packed)} of data are more than {MEMORY_SHARE:.0%} of a device's memory"


def _gib(packed: resident.Packed) -> str:
  return f"{sum(array.nbytes for array in packed.values()) / 2**30:.2g} GiB"


def schedule(train: Any, start: int, per_dispatch: int) -> Iterator[tuple[int, int]]:
  """Yields the last step and the number of steps of every dispatch from `start` on.

  Log lines, validations and checkpoints fall between two dispatches. A stretch of steps between them is divided into
  dispatches of `per_dispatch` steps and, for the rest, of one. The division does not depend on `start`, so a resumed
  run computes the same programs in the same order, unless these intervals have changed; after a start within a
  dispatch, steps are dispatched one by one up to its end.

  Args:
    train: the config's `train` section.
    start: number of steps that are done.
    per_dispatch: steps in one dispatch, at most.
  """
  intervals = {train.log_every_steps, train.eval_every_steps, train.checkpoint_every_steps}
  intervals |= {train.keep_every_steps} - {0}
  done = start
  while done < train.num_steps:
    begin = max(done - done % every for every in intervals)
    end = min(train.num_steps, *(done - done % every + every for every in intervals))
    is_whole = (done - begin) % per_dispatch == 0 and end - done >= per_dispatch
    count = per_dispatch if is_whole else 1
    done += count
    yield done, count
