"""Training steps with the host's batches, and with a split that is kept on the device.

  python benchmarks/feeding.py
  python benchmarks/feeding.py --image_size=128 --base_features=32 --per_dispatch=5

Steps alternate in blocks of `--per_dispatch` between three ways to train on the same pairs (`run/feeding.py`): the host
crops, mirrors, encodes and sends every batch; the device does, one step per dispatch; the device does, the whole block
in one dispatch. `median_s` is the time of a step in the last way. In addition to the keys that all benchmarks share
(see measure.py), the JSON has

  host_median_s, device_median_s   the same for the other two
  cpu_ms, host_cpu_ms, device_cpu_ms   CPU time per step, of all threads; the smallest of the blocks, which hardly
                                   depends on the machine's load
  same_bits                        whether the generator's parameters are equal after a block of the first two ways
  metric_difference                largest relative difference of generator_loss between a block of the first and of the
                                   third way, in its first and in its last step
  input_bytes, device_input_bytes  sent to the device for every step, by the host's way and by the others
  per_dispatch, pairs
"""

import argparse
import time
from typing import Any

import jax
import measure
import numpy as np

from pix2pix_jax import config as config_lib
from pix2pix_jax.data import pipeline
from pix2pix_jax.run import experiment as experiment_lib
from pix2pix_jax.run import feeding
from pix2pix_jax.run.experiment import Experiment
from pix2pix_jax.signals import DataSpec, Image


def main():
  load = measure.load()
  parser = measure.flags(__doc__)
  parser.add_argument("--base_features", type=int, default=64, help="width of the networks (default: 64)")
  parser.add_argument("--per_dispatch", type=int, default=10, help="steps in a block (default: 10)")
  parser.add_argument("--pairs", type=int, default=64, help="training pairs (default: 64)")
  parser.add_argument("--blocks", type=int, default=measure.BLOCKS, help=f"blocks per way (default: {measure.BLOCKS})")
  options = measure.parse(parser)
  measure.report(options, load, **benchmark(options))


def benchmark(options: argparse.Namespace) -> dict[str, Any]:
  config, side = measure.config(options), measure.load_size(options.image_size)
  config.data.mirror = True
  experiment_lib.use_compilation_cache(config.train.compilation_cache)
  images = np.random.default_rng(0).integers(0, 256, (2, options.pairs, side, side, 3), dtype=np.uint8)
  source = pipeline.ArraySource({"train": (images[0], images[1])}, DataSpec(Image(3), Image(3), {}))
  split = pipeline.load_split(source, "train", config_lib.load_shape(config.data), cache_gib=np.inf)
  ways = {}
  for name, place, per_dispatch in (("host", "no", 1), ("device", "yes", 1), ("scan", "yes", options.per_dispatch)):
    config_lib.update(config, {"train.data_on_device": place, "train.steps_per_dispatch": per_dispatch})
    run = Experiment(config.copy_and_resolve_references(), source.spec)
    ways[name] = Way(run, split, options.per_dispatch)
  first = {name: way.losses() for name, way in ways.items()}
  parameters = {name: jax.tree.leaves(jax.device_get(way.state.generator.params)) for name, way in ways.items()}
  samples = measure.alternate({name: way.seconds for name, way in ways.items()}, options.blocks)
  differences = np.abs(first["scan"] - first["host"]) / np.abs(first["host"])
  medians = {f"{name}_median_s": measure.summary(samples[name])["median_s"] for name in ("host", "device")}
  sent = {name: way.sent_bytes for name, way in ways.items()}
  return {
    **measure.summary(samples["scan"]),
    **medians,
    "cpu_ms": 1000 * ways["scan"].cpu_s,
    "host_cpu_ms": 1000 * ways["host"].cpu_s,
    "device_cpu_ms": 1000 * ways["device"].cpu_s,
    "same_bits": all(map(np.array_equal, parameters["host"], parameters["device"])),
    "metric_difference": [differences[0], differences[-1]],
    "input_bytes": sent["host"],
    "device_input_bytes": sent["device"],
    "per_dispatch": options.per_dispatch,
    "pairs": options.pairs,
    "base_features": options.base_features,
    "blocks": options.blocks,
  }


class Way:
  """One way to train.

  Attributes:
    state: the state after the blocks so far.
    cpu_s: smallest CPU time of a step in the timed blocks.
    sent_bytes: what a step's batch or draws take.
  """

  def __init__(self, run: Experiment, split: pipeline.Split, steps: int):
    self._feed = feeding.open_feed(run, split, 0, every_step=False)
    self._steps, self.state, self.cpu_s = steps, run.init(), float("inf")
    self.sent_bytes = 0

  def _block(self) -> list[dict[str, jax.Array]]:
    metrics = []
    count = self._feed.per_dispatch
    for _ in range(0, self._steps, count):
      taken = self._feed.take(count)
      self.sent_bytes = sum(array.nbytes for array in jax.tree.leaves(taken)) // count
      self.state, found = self._feed.train(self.state, taken)
      metrics.append(found)
    jax.block_until_ready(self.state)
    return metrics

  def losses(self) -> np.ndarray:
    """Runs a block and returns the generator's loss in each of its steps."""
    return np.hstack([jax.device_get(found["generator_loss"]) for found in self._block()])

  def seconds(self) -> float:
    """Runs a block and returns the seconds per step."""
    begin, cpu = time.perf_counter(), time.process_time()
    self._block()
    self.cpu_s = min(self.cpu_s, (time.process_time() - cpu) / self._steps)
    return (time.perf_counter() - begin) / self._steps


if __name__ == "__main__":
  main()
