"""Training steps of one network, and of several replicas in one program (`train.num_replicas`).

  python benchmarks/replicas.py --replicas=1,2,4,8 --batch_size=1
  python benchmarks/replicas.py --replicas=1,2 --image_size=32 --base_features=4 --steps=4

The step is the one that training compiles (`Experiment.train_step`), on batches that are already on the device. Blocks
of steps alternate between the numbers of replicas. `median_s` and `spread` are those of the last number. In addition to
the keys that all benchmarks share (see measure.py), the JSON has

  points              for each number of replicas:
    replicas
    median_s, spread  of a step, which trains all of them
    steps_per_s       1 / median_s
    total_steps_per_s   steps_per_s times replicas: steps of single networks per second
    gain              total_steps_per_s divided by that of the first number
    memory_mib        what the step's program needs: arguments, results and temporary arrays, as XLA states it
    compile_s         tracing and compiling the step
"""

import argparse
import functools
import time
from typing import Any

import jax
import measure
import numpy as np

from pix2pix_jax.run.experiment import Experiment


def main():
  load = measure.load()
  parser = measure.flags(__doc__)
  parser.add_argument("--base_features", type=int, default=64, help="width of the networks (default: 64)")
  parser.add_argument("--replicas", default="1,2,4", help="numbers of replicas (default: 1,2,4)")
  parser.add_argument("--steps", type=int, default=0, help="timed steps of each number (default: 20, on a GPU 200)")
  options = measure.parse(parser)
  measure.report(options, load, **benchmark(options))


def benchmark(options: argparse.Namespace) -> dict[str, Any]:
  programs = {count: Replicas(options, int(count)) for count in options.replicas.split(",")}
  rounds, block = measure.blocks_of(options.steps)
  sides = {count: functools.partial(program.seconds, block) for count, program in programs.items()}
  samples = measure.alternate(sides, rounds)
  points: list[dict[str, Any]] = []
  for count, program in programs.items():
    result = measure.summary(samples[count])
    speed = 1 / result["median_s"]
    total = speed * int(count)
    first = points[0]["total_steps_per_s"] if points else total
    point = {"replicas": int(count), **result, "steps_per_s": speed, "total_steps_per_s": total, "gain": total / first}
    points.append(point | {"memory_mib": program.memory_mib, "compile_s": program.compile_s})
  return {
    "median_s": points[-1]["median_s"],
    "spread": points[-1]["spread"],
    "points": points,
    "base_features": options.base_features,
    "steps": rounds * block,
  }


class Replicas:
  """The compiled step of a number of replicas, with a state and a batch.

  Attributes:
    compile_s: seconds that compiling took.
    memory_mib: what the program needs.
  """

  def __init__(self, options: argparse.Namespace, count: int):
    config = measure.config(options)
    config.train.num_replicas = count
    run = Experiment(config, measure.RGB_PAIRS)
    shape = (*run.stacked, options.batch_size, options.image_size, options.image_size, 3)
    images = np.random.default_rng(0).uniform(-1, 1, (2, *shape)).astype(np.float32)
    self._batch = jax.device_put({"input": images[0], "target": images[1]}, run.split_rows)
    self._state = jax.block_until_ready(run.init())
    begin = time.perf_counter()
    self._step = run.train_step.lower(self._state, self._batch).compile()
    self.compile_s = time.perf_counter() - begin
    needed = self._step.memory_analysis()
    self.memory_mib = (
      needed.argument_size_in_bytes
      + needed.output_size_in_bytes
      + needed.temp_size_in_bytes
      - needed.alias_size_in_bytes  # results that replace arguments
    ) / 2**20
    self.seconds(2)

  def seconds(self, steps: int) -> float:
    """Runs a block of steps and returns the seconds per step."""
    begin = time.perf_counter()
    for _ in range(steps):
      self._state, metrics = self._step(self._state, self._batch)
    jax.block_until_ready((self._state, metrics))
    return (time.perf_counter() - begin) / steps


if __name__ == "__main__":
  main()
