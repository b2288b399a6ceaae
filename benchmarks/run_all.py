"""Runs every benchmark and writes the results to benchmarks/RESULTS.md.

  python benchmarks/run_all.py                 on a CPU: about half an hour, on an otherwise idle machine
  python benchmarks/run_all.py --gpu           batches of 1, 10 and 64, float32 and bfloat16, NHWC and NCHW
  python benchmarks/run_all.py --quick --output=/tmp/results.md    tiny sizes, only to check that everything runs
  python benchmarks/run_all.py --gpu --quick --output=/tmp/results.md    the same for --gpu, on any machine

If PyTorch is installed, the PyTorch peer is measured too, unless --against=none.
"""

import argparse
import datetime
import importlib.util
import json
import os
from pathlib import Path
import shlex
import subprocess
import sys
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("train_step", "translate", "input_pipeline", "feeding", "replicas", "startup", "convolution", "cost")
_NETWORK = ("--image_size=32", "--base_features=4")
TINY = {  # flags that override the sizes
  "train_step": (*_NETWORK, "--steps=2", "--peers=eager"),
  "translate": (*_NETWORK, "--steps=2", "--files=2", "--runtimes"),
  "input_pipeline": ("--image_size=32", "--pairs=4", "--workers=1", "--seconds=0.1", "--blocks=2"),
  "feeding": (*_NETWORK, "--per_dispatch=2", "--pairs=4", "--blocks=2"),
  "replicas": (*_NETWORK, "--replicas=1,2", "--steps=2"),
  "startup": (*_NETWORK, "--steps=2", "--starts=1", "--pairs=10", "--val_pairs=1"),
  "convolution": ("--layers=g.down6", "--reps=1"),
  "cost": (*_NETWORK, "--sizes=32", "--batches=2", "--widths=4", "--pairs=4"),
}
IN_TABLE = ("benchmark", "command", "device", "versions", "median_s", "spread", "peer_median_s", "peer_spread", "ratio")


def commands(
  *, quick: bool = False, gpu: bool = False, against: str = "none", only: tuple[str, ...] = NAMES
) -> list[list[str]]:
  """The benchmarks to run, each as its name followed by its flags; `quick` ones are tiny."""
  peer = [f"--against={against}"]
  if gpu:
    settings = [
      [f"--batch_size={size}", f"--dtype={dtype}", *peer] for dtype in ("float32", "bfloat16") for size in (1, 10, 64)
    ]
    every = [[name, *flags] for name in ("train_step", "translate") for flags in settings]
    alone = ["--dtype=bfloat16", "--against=none"]
    every += [["train_step", "--batch_size=64", "--remat", "--against=none"]]
    every += [["train_step", "--batch_size=10", f"--layout={layout}", *alone] for layout in ("nhwc", "nchw")]
    every += [["input_pipeline", f"--batch_size={size}", "--workers=0,2,8", *peer] for size in (1, 10, 64)]
    every += [["feeding", f"--batch_size={size}", *alone] for size in (1, 10, 64)]
    every += [["replicas", f"--batch_size={size}", "--replicas=1,2,4,8", *alone] for size in (1, 10)]
    every += [
      ["startup", "--batch_size=10", f"--dtype={dtype}", "--steps=100", *peer] for dtype in ("float32", "bfloat16")
    ]
  elif quick:
    every = [[name, "--batch_size=2", *peer] for name in ("train_step", "translate", "input_pipeline", "startup")]
    every += [["feeding", "--batch_size=2"], ["cost", "--batch_size=2", *peer], ["convolution"]]
  else:
    every = [
      ["train_step", *peer],
      ["train_step", "--batch_size=4", "--steps=8", *peer],
      ["train_step", "--batch_size=10", "--steps=5", *peer],
      ["train_step", "--remat", "--against=none"],
      *(["train_step", "--image_size=1024", "--steps=2", "--against=none", *remat] for remat in ([], ["--remat"])),
      *(["translate", f"--batch_size={size}", "--runtimes", *peer] for size in (1, 8)),
      ["input_pipeline", *peer],
      ["feeding", "--image_size=128", "--base_features=32"],
      ["feeding", "--per_dispatch=5", "--blocks=4"],
      ["startup", *peer],
      ["convolution", "--forms=auto,lax"],
      ["cost", "--minutes=8", *peer],
    ]
  sizes = {name: TINY[name] if quick else () for name in NAMES}
  return [[*command, *sizes[command[0]]] for command in every if command[0] in only]


def run(command: list[str]) -> dict[str, Any]:
  """Runs a benchmark and returns the JSON object of its last line; its messages go to standard error."""
  name, *flags = command
  print("$", shown(command), file=sys.stderr, flush=True)
  done = subprocess.run(
    [sys.executable, f"benchmarks/{name}.py", *flags],
    cwd=ROOT,
    env=os.environ | {"PYTHONPATH": str(ROOT)},
    stdout=subprocess.PIPE,
    encoding="utf-8",
    check=True,
  )
  line = done.stdout.splitlines()[-1]
  print(line, file=sys.stderr, flush=True)
  return {"benchmark": name, "command": shown(command)} | json.loads(line)


def shown(command: list[str]) -> str:
  """The command line that repeats a benchmark."""
  return shlex.join(["python", f"benchmarks/{command[0]}.py", *command[1:]])


def markdown(results: list[dict[str, Any]]) -> str:
  """The text of RESULTS.md."""
  timed = [one for one in results if "median_s" in one]
  lines = ["# Timings", "", f"Written by `benchmarks/run_all.py` on {datetime.date.today()}.", ""]
  for device, versions in sorted({(one["device"], json.dumps(one["versions"])) for one in timed}):
    lines += [
      f"{device}; "
      + ", ".join(f"{name} {version or '(none)'}" for name, version in json.loads(versions).items())
      + ".",
      "",
    ]
  lines += [
    "Seconds per step, batch or start (see the benchmark's docstring); ± is the interquartile range divided by the",
    "median. A ratio above 1 means that this package is faster than plain eager PyTorch, whose blocks alternate with",
    "the package's own in the same run.",
    "",
    "| command | here | PyTorch | ratio |",
    "| --- | --- | --- | --- |",
  ]
  for one in timed:
    peer, ratio = (_seconds(one, "peer_"), f"{one['ratio']:.2f}") if "ratio" in one else ("", "")
    lines.append(f"| `{one['command']}` | {_seconds(one)} | {peer} | {ratio} |")
  lines += _peers(timed) + _costs(results)
  lines += ["", "All other printed values; measure.py and each benchmark's docstring explain the names.", ""]
  for one in results:
    lines += [
      f"`{one['command']}`",
      "",
      "```json",
      json.dumps({k: v for k, v in one.items() if k not in IN_TABLE or "median_s" not in one}),
      "```",
      "",
    ]
  return "\n".join(lines)


def _peers(timed: list[dict[str, Any]]) -> list[str]:
  """A table of the comparisons with several peers."""
  rows = []
  for one in timed:
    for what, result in (("", one), (", without dropout, running statistics", one.get("runtimes", {}))):
      for name, peer in result.get("peers", {}).items():
        if "not_available" in peer:
          times = f"not available: {peer['not_available']} |  | "
        else:
          fastest = " (the fastest)" if name == result["best_peer"] else ""
          times = f"{_seconds(peer)} | {_seconds(result)} | {peer['ratio']:.2f}{fastest}"
        rows.append(f"| `{one['command']}`{what} | {name} | {times} |")
  if not rows:
    return []
  head = "| command | other program | its time | here | ratio |"
  return ["", "The same beside every other program of that run:", "", head, "| --- | --- | --- | --- | --- |", *rows]


def _costs(results: list[dict[str, Any]]) -> list[str]:
  """The tables of cost.py, with the exponents in the last rows."""
  lines: list[str] = []
  for one in results:
    for name, series in one.get("series", {}).items():
      if not series["points"]:
        continue
      columns = [key for key in series["points"][0] if key == name or key.endswith(("_s", "_mib"))]
      lines += ["", f"Growth over {name} (`{one['command']}`):", ""]
      lines += ["| " + " | ".join(columns) + " |", "| --- " * len(columns) + "|"]
      rows = [[point[column] for column in columns] for point in series["points"]]
      for title, slopes in (("exponent", series["exponents"]), ("exponent of the last two", series["upper"])):
        rows.append([title, *(slopes.get(column) for column in columns[1:])])
      for row in rows:
        cells = ("" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value) for value in row)
        lines.append("| " + " | ".join(cells) + " |")
  return lines


def _seconds(one: dict[str, Any], prefix: str = "") -> str:
  return f"{one[prefix + 'median_s']:.4g} s ± {100 * one[prefix + 'spread']:.0f} %"


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--quick", action="store_true", help="tiny sizes, only to check that everything runs")
  parser.add_argument("--gpu", action="store_true", help="sizes for a GPU")
  parser.add_argument(
    "--against",
    choices=("auto", "none", "torch"),
    default="auto",
    help="the peer (default: torch if it is installed)",
  )
  parser.add_argument("--only", default=",".join(NAMES), help=f"names of benchmarks (default: {','.join(NAMES)})")
  parser.add_argument(
    "--output", type=Path, default=ROOT / "benchmarks/RESULTS.md", help="(default: benchmarks/RESULTS.md)"
  )
  options = parser.parse_args()
  against = options.against
  if against == "auto":
    against = "torch" if importlib.util.find_spec("torch") else "none"
  results, failed = [], []
  for command in commands(quick=options.quick, gpu=options.gpu, against=against, only=tuple(options.only.split(","))):
    try:
      results.append(run(command))
    except subprocess.CalledProcessError:  # for example, out of memory; the others can still run
      failed.append(shown(command))
    options.output.write_text(markdown(results), encoding="utf-8")
  print(f"Results are in {options.output}." + "".join(f"\nFailed: {command}" for command in failed))
  sys.exit(bool(failed))


if __name__ == "__main__":
  main()
