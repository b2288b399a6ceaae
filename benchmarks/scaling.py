"""Weak scaling of training over processes on one machine: the same batch and one computing thread for each.

  python benchmarks/scaling.py --processes=1,2

For every number of processes, trains on built-in façades and prints the steps per second, the efficiency (against one
process), and what each step moves: the bytes of prepared data that a process reads, and the bytes that it adds up with
the others in all-reduces, counted in the compiled step (gradients of both networks and statistics of batch norm).

Processes are not pinned to cores: the threads that wait for a message would then wait for the end of a time slice.
"""

import argparse
import json
import math
import os
from pathlib import Path
import re
import socket
import statistics
import subprocess
import sys
import tempfile

ROOT = Path(__file__).parent.parent
LOG = 10
F32 = re.compile(r"f32\[([\d,]*)\]")


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--processes", default="1,2", help="numbers of processes, separated by commas")
  parser.add_argument("--batch_size", type=int, default=4, help="pairs per process and step")
  parser.add_argument("--size", type=int, default=128, help="height and width of the crops")
  parser.add_argument("--base_features", type=int, default=32)
  parser.add_argument("--steps", type=int, default=60)
  parser.add_argument("--compile", help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.compile:
    return print(compiled_step(Path(args.compile)))
  alone = None
  for count in map(int, args.processes.split(",")):
    with tempfile.TemporaryDirectory() as folder:
      result = measure(count, Path(folder), args)
    alone = alone or result["steps_per_second"]
    result["efficiency"] = round(result["steps_per_second"] / alone, 3)
    print(json.dumps(result), flush=True)


def measure(count, folder, args):
  """Trains with `count` processes; the first log line, with the compilation, is left out."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{free.getsockname()[1]}"
  fields = {
    "data.load_size": args.size + args.size // 8,
    "data.crop_size": args.size,
    "data.num_train": 64,
    "data.num_val": 0,
    "data.num_test": 0,
    "data.cache_gib": 0.0,
    "data.prepared_dir": str(folder / "prepared"),
    "model.base_features": args.base_features,
    "train.batch_size": args.batch_size * count,
    "train.num_steps": args.steps,
    "train.log_every_steps": LOG,
  }
  command = [
    *(sys.executable, str(ROOT / "main.py"), f"--config={ROOT}/configs/procedural.py", f"--workdir={folder}/run"),
    *(f"--config.{name}={value}" for name, value in fields.items()),
  ]
  environment = os.environ | {"PJRT_NPROC": "1", "OMP_NUM_THREADS": "1"}
  started = []
  for index in range(count):
    flags = [f"--coordinator={address}", f"--num_processes={count}", f"--process_id={index}"] if count > 1 else []
    started.append(subprocess.Popen([*command, *flags], env=environment, stdout=subprocess.DEVNULL))
  assert all(process.wait() == 0 for process in started), "a process failed"
  rows = [json.loads(line) for line in (folder / "run/history.jsonl").read_text(encoding="utf-8").splitlines()]
  speeds = [row["train/steps_per_second"] for row in rows if "train/steps_per_second" in row][1:]
  shards = [path.stat().st_size for path in (folder / "prepared").rglob("*array_record*")]
  reduced = all_reduces(folder / "run", count) if count > 1 else []
  return dict(
    processes=count,
    batch_size=args.batch_size * count,
    steps_per_second=round(statistics.median(speeds), 3),
    pairs_per_second=round(statistics.median(speeds) * args.batch_size * count, 2),
    read_bytes_per_process=round(sum(shards) / 64 * args.batch_size),
    all_reduces=len(reduced),
    summed_bytes=sum(reduced),
  )


def all_reduces(workdir, count):
  """The bytes of each all-reduce in the step of a run, compiled for `count` devices of one process."""
  command = [sys.executable, __file__, f"--compile={workdir}"]
  environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count}", "PYTHONPATH": str(ROOT)}
  return sizes(subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout)


def sizes(program):
  """The bytes of each all-reduce of float32 numbers in optimized HLO."""
  reduced = re.findall(r"= (\(.*?\)|\S+) all-reduce\(", program)
  return [
    sum(4 * math.prod(map(int, filter(None, one.split(",")))) for one in F32.findall(shapes)) for shapes in reduced
  ]


def compiled_step(workdir):
  """The optimized HLO of a run's training step."""
  import jax

  from pix2pix_jax.run.experiment import Experiment

  run = Experiment.read(workdir)
  data = run.config.data
  image = (run.config.train.batch_size, data.crop_size, data.crop_size, 3)
  batch = {side: jax.ShapeDtypeStruct(image, "float32", sharding=run.split_rows) for side in ("input", "target")}
  return run.train_step.lower(run.abstract(), batch).compile().as_text()


if __name__ == "__main__":
  main()
