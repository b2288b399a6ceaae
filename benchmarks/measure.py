"""Shared parts of the benchmarks: flags, timing beside the PyTorch peer, operation counts, and the final JSON line.

Every benchmark prints one JSON object as its last line, with at least

  benchmark, command   name, and the command line that repeats it
  device, versions     processor or GPU; versions of Python, JAX, Flax and PyTorch (null if it is not installed)
  load                 one-minute load average of the machine at the start
  environment          the OMP, XLA and allocator settings among the environment variables
  batch_size, image_size, dtype
  median_s, spread     median of the samples (the benchmark's docstring says of what), and their interquartile range
                       divided by the median

and with --against=torch also

  peer_median_s, peer_spread, peer   the same for the PyTorch peer, and its settings
  ratio                peer_median_s / median_s: above 1, this package is faster

A sample is the mean over a block of steps. Blocks of this package and of its peers alternate, so that other programs on
the machine slow down all of them. A peer runs in a separate process, which computes only while this one waits. This
process keeps freed memory, as main.py and pix2pix_jax.translate do (`launch.keep_memory`). The peer has glibc's default
allocator settings, as Python starts it. Some benchmarks add stronger peers, by name (`compare_with`): each has its
`median_s`, `spread`, the `ratio` of its median to this package's, and its settings, or `not_available` with the reason.
"""

import argparse
from collections.abc import Callable, Iterator
import importlib.metadata
import importlib.util
import json
import os
from pathlib import Path
import platform
import shlex
import statistics
import subprocess
import sys
import time
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the peer needs some of a GPU's memory as well

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pix2pix_jax import launch  # noqa: E402

if Path(sys.argv[0]).resolve() in [
  ROOT / "benchmarks" / name
  for name in ("train_step.py", "translate.py", "input_pipeline.py", "feeding.py", "replicas.py", "demo_server.py")
]:
  launch.keep_memory()  # not startup.py: it runs main.py, which does this itself

import jax  # noqa: E402  (after the environment is set)
import jax.numpy as jnp  # noqa: E402
import ml_collections  # noqa: E402
import numpy as np  # noqa: E402

from pix2pix_jax import config as config_lib  # noqa: E402
from pix2pix_jax import signals  # noqa: E402
from pix2pix_jax.model import convolution  # noqa: E402
from pix2pix_jax.run.experiment import Experiment  # noqa: E402

RGB_PAIRS = signals.DataSpec(signals.Image(3, "uint8"), signals.Image(3, "uint8"), {"train": 400})
BLOCKS = 10  # samples of each side
LAYOUTS = ("auto", "nhwc", "nchw")
SETTINGS = (
  "GLIBC_TUNABLES",
  "OMP_NUM_THREADS",
  "OMP_WAIT_POLICY",
  "XLA_FLAGS",
  "JAX_DISABLE_MOST_OPTIMIZATIONS",
  "JAX_DEFAULT_MATMUL_PRECISION",
)


def flags(doc: str, *, dtypes: tuple[str, ...] = ("float32", "bfloat16")) -> argparse.ArgumentParser:
  """A parser with the flags that all benchmarks share; `doc` is the benchmark's docstring."""
  parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--batch_size", type=int, default=1, help="images per step (default: 1)")
  parser.add_argument(
    "--image_size", type=int, default=256, help="side in pixels of the networks' square images (default: 256)"
  )
  parser.add_argument(
    "--dtype", choices=dtypes, default="float32", help="precision of the networks' arithmetic (default: float32)"
  )
  parser.add_argument(
    "--layout",
    choices=LAYOUTS,
    default="auto",
    help="order of the dimensions in the convolutions of a GPU (default: auto, which XLA chooses; CPUs ignore it)",
  )
  parser.add_argument(
    "--against",
    choices=("none", "torch"),
    default="none",
    help="measure the PyTorch peer in the same run (default: none)",
  )
  return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
  options = parser.parse_args()
  if options.against == "torch" and importlib.util.find_spec("torch") is None:
    parser.error("--against=torch needs PyTorch, which is not installed: pip install torch==2.13.0")
  if options.layout != "auto":  # before the first use of a device, when XLA reads its flags
    flag = f"--xla_gpu_force_conv_{options.layout}=true"
    os.environ["XLA_FLAGS"] = " ".join(dict.fromkeys([*os.environ.get("XLA_FLAGS", "").split(), flag]))
  return options


def config(options: argparse.Namespace) -> ml_collections.ConfigDict:
  """The default configuration, the paper's model, for RGB pairs of this size, resolved as in training."""
  made = config_lib.default()
  changes = {
    "data.crop_size": options.image_size,
    "data.load_size": load_size(options.image_size),
    "model.base_features": options.base_features,
    "train.num_steps": 10**6,
    "train.batch_size": options.batch_size,
    "train.dtype": options.dtype,
    "train.remat": getattr(options, "remat", False),
  }
  config_lib.update(made, changes)
  return config_lib.resolve(made, RGB_PAIRS)


def experiment(options: argparse.Namespace) -> Experiment:
  """The networks, optimizer and compiled steps of `config`."""
  return Experiment(config(options), RGB_PAIRS)


def load_size(image_size: int) -> int:
  """The size to which images are resized before the crop, in the paper's proportion: 286 for 256."""
  return round(image_size * 286 / 256)


# --- Time


def blocks_of(steps: int) -> tuple[int, int]:
  """(number of blocks, steps per block) for a number of timed steps per side; 0: 20 on a CPU, 200 elsewhere."""
  steps = steps or (20 if jax.default_backend() == "cpu" else 200)
  count = min(BLOCKS, steps)
  return count, steps // count


def alternate(sides: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
  """Calls the functions in `sides`, which return seconds, in turn, `rounds` times.

  Pauses let the threads of the program before fall asleep, which wait in busy loops for some milliseconds.
  """
  samples = {name: [] for name in sides}
  for _ in range(rounds):
    for name, run in sides.items():
      time.sleep(0.05)
      samples[name].append(run())
  return samples


def summary(samples: list[float], prefix: str = "") -> dict[str, float]:
  """`median_s`, and `spread`: the interquartile range divided by the median."""
  median = statistics.median(samples)
  low, high = np.quantile(samples, (0.25, 0.75))
  return {f"{prefix}median_s": median, f"{prefix}spread": (high - low) / median}


def compare(samples: list[float], peer_samples: list[float] | None) -> dict[str, float]:
  """The `summary` of both sides, and their ratio."""
  result = summary(samples)
  if peer_samples:
    result |= summary(peer_samples, "peer_")
    result["ratio"] = result["peer_median_s"] / result["median_s"]
  return result


def compare_with(samples: dict[str, list[float]], infos: dict[str, dict[str, Any]]) -> dict[str, Any]:
  """`peers`: the results of all peers by name; `best_peer`: the fastest one's name; `best_ratio`: its ratio.

  Args:
    samples: those of this package under "ours", and of the peers under their names.
    infos: settings and results to report for each peer; those without samples have a reason, `not_available`.
  """
  ours = statistics.median(samples["ours"])
  peers = {}
  for name, info in infos.items():
    peers[name] = dict(info)
    if name in samples:
      result = summary(samples[name])
      peers[name] |= result | {"ratio": result["median_s"] / ours}
  timed = [name for name in peers if "ratio" in peers[name]]
  best = min(timed, key=lambda name: peers[name]["ratio"], default=None)
  return {"peers": peers} | ({"best_peer": best, "best_ratio": peers[best]["ratio"]} if best else {})


class PeerError(RuntimeError):
  """A peer's process failed."""


class Peer:
  """torch_peer.py in a separate process that does one kind of work on request; or another peer with the same protocol.

  Attributes:
    info: its settings.
  """

  def __init__(self, work: str, *, script: str = "torch_peer.py", keep_memory: bool = False, **settings: Any):
    """Starts the process.

    Args:
      work, settings: the arguments of the script's `serve`.
      script: torch_peer.py or runtime_peer.py.
      keep_memory: whether it has this package's allocator settings instead of glibc's.
    """
    tunables = launch.KEEP_MEMORY if keep_memory else ""
    env = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"} | (
      {"GLIBC_TUNABLES": tunables} if tunables else {}
    )
    self._process = subprocess.Popen(
      [sys.executable, str(ROOT / "benchmarks" / script), f"--serve={work}", f"--settings={json.dumps(settings)}"],
      env=env,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      encoding="utf-8",
    )
    self.info = self._answer() | {"GLIBC_TUNABLES": tunables}

  @classmethod
  def fastest(cls, work: str, **settings: Any) -> "Peer":
    """A peer with the fastest setup. Setups are tried in another process, so that their peak memory is not counted."""
    with cls(work, **settings, try_all=True) as trial:
      peer = cls(work, **settings, **trial.info["fastest"])
    peer.info["tried_s"] = trial.info["tried_s"]
    return peer

  def run(self, amount: float) -> dict[str, float]:
    """Measures one block: `seconds` per step, and the peak memory since the process started."""
    print(amount, file=self._process.stdin, flush=True)
    return self._answer()

  def _answer(self) -> dict[str, Any]:
    line = self._process.stdout.readline()
    if not line:
      raise PeerError(f"the process exited with status {self._process.wait()}; its messages are above")
    return json.loads(line)

  def close(self) -> None:
    self._process.stdin.close()
    self._process.wait()

  def __enter__(self) -> "Peer":
    return self

  def __exit__(self, *unused: object) -> None:
    self.close()


def peak_memory_mib() -> float:
  """Peak resident memory of this process so far, or peak allocation on the first GPU."""
  statistics_ = jax.local_devices()[0].memory_stats()
  if statistics_ and "peak_bytes_in_use" in statistics_:
    return statistics_["peak_bytes_in_use"] / 2**20
  return peak_resident_mib()


def peak_resident_mib() -> float:
  try:  # not ru_maxrss, which on Linux starts at the parent process's value
    (line,) = [
      line for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM")
    ]
    return int(line.split()[1]) / 2**10
  except (OSError, ValueError):
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


# --- Operations


def count_flops(function: Callable[..., Any], *arguments: Any) -> int:
  """Counts the operations of all convolutions and matrix products in a call, which is traced but not run.

  A multiplication and an addition are two operations. Convolutions count as direct sums over zero-padded images,
  regardless of the form they run in: every output pixel times every tap of the kernel. A gradient therefore costs as
  much as the forward pass: the zeros of its dilation and of its wider padding do not count.
  """
  total = 0
  for equation in _products(function, *arguments):
    if equation.primitive.name == "conv_general_dilated":
      total += _flops_of_convolution(equation)
    else:
      (contracted, _), _ = equation.params["dimension_numbers"]
      shape = equation.invars[0].aval.shape
      total += 2 * equation.outvars[0].aval.size * int(np.prod([shape[axis] for axis in contracted]))
  return total


def count_bytes(function: Callable[..., Any], *arguments: Any) -> int:
  """Bytes that a call moves at least if only its convolutions and matrix products did: their operands and results, and
  the call's own arguments and results. It is traced but not run.
  """
  size = lambda avals: sum(aval.size * aval.dtype.itemsize for aval in avals)
  products = sum(
    size(variable.aval for variable in (*equation.invars, *equation.outvars))
    for equation in _products(function, *arguments)
  )
  return products + size(jax.tree.leaves((arguments, jax.eval_shape(function, *arguments))))


def _products(function: Callable[..., Any], *arguments: Any) -> Iterator[Any]:
  """The convolutions and matrix products of a call, in XLA's form."""
  with convolution.use_form("lax"):
    yield from _products_of(jax.make_jaxpr(function)(*arguments).jaxpr)


def _products_of(jaxpr: Any) -> Iterator[Any]:
  for equation in jaxpr.eqns:
    if equation.primitive.name in ("conv_general_dilated", "dot_general"):
      yield equation
    for value in jax.tree.leaves(
      list(equation.params.values()), is_leaf=lambda value: hasattr(value, "eqns") or hasattr(value, "jaxpr")
    ):
      if hasattr(value, "eqns") or hasattr(value, "jaxpr"):
        yield from _products_of(getattr(value, "jaxpr", value))


def _flops_of_convolution(equation: Any) -> int:
  image, kernel, output, params = (
    equation.invars[0].aval,
    equation.invars[1].aval,
    equation.outvars[0].aval,
    equation.params,
  )
  numbers = params["dimension_numbers"]
  products = output.shape[numbers.out_spec[0]] * output.shape[numbers.out_spec[1]] * kernel.shape[numbers.rhs_spec[1]]
  for d, (low, _) in enumerate(params["padding"]):
    places = np.arange(output.shape[numbers.out_spec[2 + d]])[:, None] * params["window_strides"][d]
    taps = np.arange(kernel.shape[numbers.rhs_spec[2 + d]]) * params["rhs_dilation"][d]
    meetings = np.sum((places + taps - low) % params["lhs_dilation"][d] == 0)
    products *= int(min(meetings, image.shape[numbers.lhs_spec[2 + d]] * len(taps)))
  return 2 * products


class MatrixProduct:
  """The product of two large square matrices on the first device, a reference for other speeds.

  Attributes:
    flops: operations per product.
  """

  def __init__(self, dtype: str):
    size = 2048 if jax.default_backend() == "cpu" else 8192
    self.flops = 2 * size**3
    self._a = jax.random.normal(jax.random.key(0), (size, size), dtype)
    self._multiply = jax.jit(jnp.matmul)
    self()

  def __call__(self) -> float:
    begin = time.perf_counter()
    jax.block_until_ready(self._multiply(self._a, self._a))
    return time.perf_counter() - begin


def achieved(flops: int, median_s: float, product: MatrixProduct, product_samples: list[float]) -> dict[str, float]:
  """Effective speed, absolute and relative to the run's fastest matrix product.

  The share can exceed 1, because some convolution algorithms need fewer operations than the direct sum.
  """
  peak = product.flops / min(product_samples)
  return {
    "gflop": flops / 1e9,
    "gflop_per_s": flops / median_s / 1e9,
    "product_gflop_per_s": peak / 1e9,
    "share_of_product": flops / median_s / peak,
  }


# --- Output


def device_name() -> str:
  """The processor with its number of cores, or the GPU."""
  device = jax.devices()[0]
  if device.platform != "cpu":
    return device.device_kind
  try:
    names = [
      line.partition(":")[2].strip()
      for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
      if line.startswith("model name")
    ]
  except OSError:
    names = []
  return f"{(names or [platform.processor() or platform.machine()])[0]}, {os.cpu_count()} cores"


def versions() -> dict[str, str | None]:
  """Versions of Python and the libraries; None for a library that is not installed."""
  result = {"python": platform.python_version()}
  for name in ("jax", "flax", "torch"):
    try:
      result[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      result[name] = None
  return result


def report(options: argparse.Namespace, load: float, **values: Any) -> None:
  """Prints the JSON line."""
  name = Path(sys.argv[0]).stem
  fields = dict(
    benchmark=name,
    command=shlex.join(["python", f"benchmarks/{name}.py", *sys.argv[1:]]),
    device=device_name(),
    versions=versions(),
    load=load,
    environment={name: os.environ[name] for name in SETTINGS if name in os.environ},
    batch_size=options.batch_size,
    image_size=options.image_size,
    dtype=options.dtype,
    **values,
  )
  print(json.dumps(_rounded(fields)), flush=True)


def _rounded(value: Any) -> Any:
  if isinstance(value, dict):
    return {name: _rounded(item) for name, item in value.items()}
  if isinstance(value, list | tuple):
    return [_rounded(item) for item in value]
  return float(f"{value:.4g}") if isinstance(value, float | np.floating) else value


def load() -> float:
  """The one-minute load average."""
  return os.getloadavg()[0]
