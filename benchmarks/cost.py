"""How time and memory grow with the work: over image size, batch size, width, and the number of pairs.

  python benchmarks/cost.py                            about eight minutes on two idle cores
  python benchmarks/cost.py --pairs=400,4000,100000    the larger data set takes some minutes more

Each series varies one quantity and leaves the others at --image_size, --batch_size and --base_features. A point of the
first three is a process that runs the training step of both networks, compiled by another one before, and with
--against=torch one that does the same work in eager PyTorch. A point of the last is two processes that read a folder of
drawn pairs of 64x64 until the first batch: one that prepares the data, and one that finds it prepared. The last line is
JSON:

  series        for each series its `points`, and by name of a value its `exponents`
  left_out      points for which there was no time (--minutes)

A point has

  image_size, batch_size, base_features, or pairs
  step_s, memory_mib             median of the timed steps; peak resident memory, without compiling
  peer_step_s, peer_memory_mib   the same in PyTorch; null if its process fails, for lack of memory for example
  prepare_s, memory_mib          preparing the data and everything until the first batch; peak resident memory
  start_s, start_memory_mib      the same with prepared data

An exponent e is the slope of the least-squares line through the logarithms: value ~ quantity ^ e, so 1 is proportional.
`upper` has those of the two largest points, where fixed costs matter least.
"""

import argparse
import json
import os
from pathlib import Path
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import logging
import measure  # before JAX
import numpy as np
from PIL import Image

from pix2pix_jax import config as config_lib
from pix2pix_jax import launch

SERIES = {  # quantity: the flag for its values, and their default
  "image_size": ("sizes", "64,128,256,512,1024"),
  "batch_size": ("batches", "1,2,4,8,16,32"),
  "base_features": ("widths", "16,32,64"),
  "pairs": ("pairs", "400,4000,20000"),
}
SIDE = 64  # of the pairs


def main() -> None:
  load = measure.load()
  parser = measure.flags(__doc__, dtypes=("float32",))
  parser.add_argument("--base_features", type=int, default=64, help="width of the networks (default: 64)")
  parser.set_defaults(image_size=128)
  for name, (flag, default) in SERIES.items():
    parser.add_argument(f"--{flag}", default=default, help=f"values of {name} (default: {default})")
  parser.add_argument("--minutes", type=float, default=10, help="points that begin later are left out (default: 10)")
  parser.add_argument("--point", choices=("step", "pairs"), help=argparse.SUPPRESS)
  parser.add_argument("--folder", help=argparse.SUPPRESS)
  options = measure.parse(parser)
  if options.point:
    print(json.dumps(step_point(options) if options.point == "step" else pairs_point(Path(options.folder))))
    return
  deadline = time.monotonic() + 60 * options.minutes
  base = {name: getattr(options, name) for name in SERIES if name != "pairs"}
  series, left_out = {}, []
  done: dict[Any, dict[str, Any]] = {}
  for name, (flag, _) in SERIES.items():
    points = []
    for value in map(int, getattr(options, flag).split(",")):
      if time.monotonic() > deadline:
        left_out.append({name: value})
        continue
      where = {name: value} if name == "pairs" else base | {name: value}
      key = tuple(where.items())
      if key not in done:
        done[key] = where | (measured_pairs(value) if name == "pairs" else measured_step(where, options.against))
        print(json.dumps(done[key]), file=sys.stderr, flush=True)
      points.append(done[key])
    series[name] = {"points": points, "exponents": exponents(points, name), "upper": exponents(points[-2:], name)}
  measure.report(options, load, series=series, left_out=left_out, base_features=options.base_features)


def exponents(points: list[dict[str, Any]], name: str) -> dict[str, float]:
  """The slopes of all measured values over the quantity `name`, on logarithmic axes."""
  slopes = {}
  for value in points[0] if len(points) > 1 else ():
    known = [(point[name], point[value]) for point in points if point[value]]
    if value not in SERIES and len(known) > 1:
      slopes[value] = float(np.polyfit(*np.log(np.array(known, float)).T, 1)[0])
  return slopes


# --- Steps


def measured_step(where: dict[str, int], against: str) -> dict[str, Any]:
  flags = [f"--{name}={value}" for name, value in where.items()]
  with tempfile.TemporaryDirectory() as cache:
    env = {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    compiling = [sys.executable, str(Path(__file__).with_name("train_step.py")), "--compile_only", *flags]
    subprocess.run(compiling, env=os.environ | env, stdout=subprocess.DEVNULL, check=True)
    result = run_point("step", *flags, **env)
  if against == "torch":
    result |= {"peer_step_s": None, "peer_memory_mib": None}
    try:
      with measure.Peer("train_step", **where, dtype="float32", threads=os.cpu_count()) as peer:
        count = _count(peer.run(1)["seconds"])
        last = [peer.run(1) for _ in range(count)]
      result["peer_step_s"] = statistics.median(one["seconds"] for one in last)
      result["peer_memory_mib"] = last[-1]["peak_memory_mib"]
    except measure.PeerError as error:
      print(error, file=sys.stderr)
  return result


def _count(seconds: float) -> int:
  """How many steps to time: three at least, about four seconds if they are fast."""
  return max(3, min(20, int(4 / seconds)))


def step_point(options: argparse.Namespace) -> dict[str, float]:
  import jax
  import train_step

  options.remat = False
  step, state, batch, _ = train_step.compile_step(measure.experiment(options))
  state, _ = step(state, batch)
  jax.block_until_ready(state)
  samples: list[float] = []
  while not samples or len(samples) < _count(samples[0]):
    begin = time.perf_counter()
    state, metrics = step(state, batch)
    jax.block_until_ready((state, metrics))
    samples.append(time.perf_counter() - begin)
  return {"step_s": statistics.median(samples), "memory_mib": measure.peak_memory_mib()}


# --- Pairs


def measured_pairs(count: int) -> dict[str, float]:
  with tempfile.TemporaryDirectory() as folder:
    write_pairs(Path(folder) / "source/train", count)
    first, second = (run_point("pairs", f"--folder={folder}") for _ in range(2))
  return {
    "prepare_s": first["seconds"],
    "memory_mib": first["memory_mib"],
    "start_s": second["seconds"],
    "start_memory_mib": second["memory_mib"],
  }


def write_pairs(folder: Path, count: int) -> None:
  """JPEG files of pairs side by side, smooth and all different."""
  folder.mkdir(parents=True)
  rng = np.random.default_rng(0)
  for number in range(count):
    colors = Image.fromarray(rng.integers(0, 256, (4, 8, 3), dtype=np.uint8))
    colors.resize((2 * SIDE, SIDE)).save(folder / f"{number}.jpg")


def pairs_point(folder: Path) -> dict[str, float]:
  from pix2pix_jax.data import pipeline, prepare  # with TensorFlow, whose memory is no part of a step

  logging.set_verbosity(logging.ERROR)
  begin = time.perf_counter()
  config = measure.config(argparse.Namespace(image_size=SIDE, base_features=4, batch_size=1, dtype="float32"))
  config_lib.update(
    config,
    {
      "data.name": "folder",
      "data.source_dir": str(folder / "source"),
      "data.prepared_dir": str(folder / "prepared"),
      "data.side_by_side": "target_input",
    },
  )
  prepared = prepare.prepare(config.data)
  split = pipeline.load_split(prepared, "train", config_lib.load_shape(config.data), cache_gib=config.data.cache_gib)
  next(pipeline.train_batches(split, config.data, batch_size=1, seed=0))
  return {"seconds": time.perf_counter() - begin, "memory_mib": measure.peak_resident_mib()}


def run_point(kind: str, *flags: str, **env: str) -> dict[str, float]:
  command = [sys.executable, __file__, f"--point={kind}", *flags]
  done = subprocess.run(command, env=os.environ | env, stdout=subprocess.PIPE, encoding="utf-8", check=True)
  return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
  if "--point=step" in sys.argv:
    launch.keep_memory()
  main()
