"""Start-up: the time from the command to the first step of `main.py`, and the speed of its loop after that.

  python benchmarks/startup.py --against=torch

The façades (side-by-side JPEGs, drawn for this run) are prepared beforehand. A start is timed from the command to the
line that reports the first step: imports, decoding, initial weights, validation of the untrained networks on
`--val_pairs`, compilation and the step itself. The peer reads its pairs, creates its networks and takes a step; it
neither validates first nor compiles.

`median_s` is the time of a start with compiled programs in the cache, and each start is a sample; `peer_median_s` is
that of the peer. In addition to the keys that all benchmarks share (see measure.py), the JSON has

  cold_s                       time of one start with an empty compilation cache
  cold_ratio                   peer_median_s / cold_s
  first_step_s, cold_first_step_s   the part of each that waits for the compiled step and runs it, as main.py prints it
  stages_s, cold_stages_s      the other parts: until the first line, and the stages that `main.py --verbose` prints; of
                               warm starts, the median of each
  steps_per_second             speed of the loop over the `--steps` steps after the first dispatch (of ten steps on a
                               GPU), as main.py logs it, without validation
  data_wait_share              share of that time spent waiting for data
"""

import argparse
import json
import os
from pathlib import Path
import re
import subprocess
import sys
import tempfile
import time
from typing import Any

from input_pipeline import write_pairs
import jax
import measure

from pix2pix_jax import config as config_lib
from pix2pix_jax.data import prepare
from pix2pix_jax.run import feeding

FIRST_STEP = re.compile(r"First (step|\d+ steps) done.* \((?P<seconds>[\d.]+) s to compile and run\)")
STAGE = re.compile(r"(?P<name>.+) took (?P<seconds>[\d.]+) s\.$")
PEER_FIRST_STEP = re.compile("first step done")


def main():
  load = measure.load()
  parser = measure.flags(__doc__)
  parser.add_argument("--steps", type=int, default=20, help="steps of the loop after the first dispatch (default: 20)")
  parser.add_argument("--base_features", type=int, default=64, help="width of the networks (default: 64)")
  parser.add_argument("--starts", type=int, default=3, help="warm starts, and starts of the peer (default: 3)")
  parser.add_argument("--pairs", type=int, default=50, help="training pairs (default: 50)")
  parser.add_argument("--val_pairs", type=int, default=8, help="validation pairs (default: 8)")
  options = measure.parse(parser)
  with tempfile.TemporaryDirectory() as folder:
    measure.report(options, load, **benchmark(options, Path(folder)))


def benchmark(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
  source = write_pairs(folder / "facades", {"train": options.pairs, "val": options.val_pairs}, options.image_size)
  config = measure.config(options)
  first = 1 if jax.default_backend() == "cpu" else feeding.STEPS_PER_DISPATCH  # steps of the first dispatch
  steps = first + options.steps
  fields = {
    "data.name": "facades",
    "data.source_dir": str(source),
    "data.prepared_dir": str(folder / "prepared"),
    "data.load_size": config.data.load_size,
    "data.crop_size": options.image_size,
    "model.base_features": options.base_features,
    "train.batch_size": options.batch_size,
    "train.dtype": options.dtype,
    **{
      f"train.{name}": steps for name in ("num_steps", "log_every_steps", "eval_every_steps", "checkpoint_every_steps")
    },
    "train.compilation_cache": str(folder / "cache"),
  }
  config_lib.update(config, fields)
  prepare.prepare(config.data)
  root = measure.ROOT
  ours = [
    sys.executable,
    str(root / "main.py"),
    f"--config={root}/pix2pix_jax/configs/default.py",
    *(f"--config.{name}={value}" for name, value in fields.items()),
    "--verbose",
  ]
  theirs = [
    sys.executable,
    str(root / "benchmarks/torch_peer.py"),
    f"--source_dir={source}",
    f"--output={folder}/peer",
    f"--load_size={config.data.load_size}",
    f"--crop_size={options.image_size}",
    f"--base_features={options.base_features}",
    f"--batch_size={options.batch_size}",
    f"--dtype={options.dtype}",
    "--num_epochs=1",
  ]
  number = 0

  def start(cut_short=True):
    nonlocal number
    number += 1  # a new workdir every time, or a later start would resume
    seconds, line, parts = until([*ours, f"--workdir={folder}/run{number}"], FIRST_STEP, cut_short)
    first_steps.append(float(line["seconds"]))
    stages.append(parts)
    return seconds

  first_steps, stages = [], []
  cold_s = start()
  (cold_first_step_s,), (cold_stages_s,) = first_steps, stages
  first_steps.clear()
  stages.clear()
  sides = {"ours": start}
  if options.against == "torch":
    sides["peer"] = lambda: until(theirs, PEER_FIRST_STEP)[0]
  samples = measure.alternate(sides, options.starts - 1)
  samples["ours"].append(start(cut_short=False))
  if options.against == "torch":
    samples["peer"].append(sides["peer"]())
  result = measure.compare(samples["ours"], samples.get("peer"))
  if options.against == "torch":
    result |= {"cold_ratio": result["peer_median_s"] / cold_s, "peer": {"compile": False}}
  rows = [json.loads(line) for line in (folder / f"run{number}/history.jsonl").read_text(encoding="utf-8").splitlines()]
  (row,) = [row for row in rows if "train/steps_per_second" in row]
  return result | dict(
    cold_s=cold_s,
    first_step_s=measure.summary(first_steps)["median_s"],
    cold_first_step_s=cold_first_step_s,
    stages_s={name: measure.summary([parts[name] for parts in stages])["median_s"] for name in stages[0]},
    cold_stages_s=cold_stages_s,
    steps_per_second=row["train/steps_per_second"],
    data_wait_share=row["train/data_wait_share"],
    base_features=options.base_features,
    steps=options.steps,
    starts=options.starts,
    pairs=options.pairs,
    val_pairs=options.val_pairs,
  )


def until(command: list[str], pattern: re.Pattern, cut_short: bool = True) -> tuple[float, re.Match, dict[str, float]]:
  """Runs a command and times it until it prints a line with `pattern`; returns the seconds, the match, and the seconds
  until its first line and of the stages that it has named before.

  Args:
    command: to run.
    pattern: to look for in its standard output.
    cut_short: kill the command then; otherwise wait until it ends.
  """
  # JAX_COMPILATION_CACHE_DIR would override train.compilation_cache.
  env = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
  begin = time.perf_counter()
  process = subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8", env=env)
  seconds, match, stages = None, None, {}
  for line in process.stdout:
    stages = stages or {"Until the first line": round(time.perf_counter() - begin, 2)}
    if match is None and (stage := STAGE.match(line)):
      stages[stage["name"]] = float(stage["seconds"])
    match = match or pattern.search(line)
    if match and seconds is None:
      seconds = time.perf_counter() - begin
      if cut_short:
        process.kill()
  status = process.wait()
  if match is None or (status and not cut_short):
    raise RuntimeError(f"{Path(command[1]).name} exited with status {status}; its messages are above.")
  return seconds, match, stages


if __name__ == "__main__":
  main()
