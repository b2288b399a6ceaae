"""The page as a folder for any web host: the model runs in the browser, by ONNX Runtime in WebAssembly.

The large files, the model and the runtime, are stored compressed, and the page decompresses them: few web hosts would.
"""

import gzip
import json
from pathlib import Path
import shutil
import subprocess
import tarfile
import tempfile

from pix2pix_jax import output
from pix2pix_jax.errors import UsageError
from pix2pix_jax.inference import Translator
from pix2pix_jax.serving import payload
from pix2pix_jax.serving.describe import describe
from pix2pix_jax.serving.examples import Examples

PAGE = Path(__file__).parent.parent / "page"
RUNTIME = "onnxruntime-web@1.21.1"  # of npm; later ones are a quarter larger and not faster
WASM = "ort-wasm-simd-threaded.wasm"
RUNTIME_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", f"{WASM}.gz")
MODEL = "model.onnx.gz"
Metrics = dict[str, dict[str, float]]


def write(
  translator: Translator,
  name: str,
  folder: Path,
  examples: Examples,
  *,
  weights: str = "int8",
  metrics: Metrics | None = None,
) -> None:
  """Writes the folder, and prints its size.

  Args:
    translator: the model.
    name: its name on the page.
    folder: folder to write; existing files of the same names are replaced, except those of the runtime.
    examples: pairs to start from.
    weights: how kernels are stored, one of `rounding.WEIGHTS`.
    metrics: the model's, and those with such weights, to be shown (`rounding.measure`).

  Raises:
    UsageError: the package onnx or the runtime cannot be had, or a model that ONNX cannot express.
  """
  try:
    from pix2pix_jax.serving import onnx_graph
  except ImportError as error:
    raise UsageError("--static needs the package onnx, which is not installed: pip install onnx.") from error
  model, masks = onnx_graph.make(translator.config, translator.variables, weights)
  try:
    (folder / "examples").mkdir(parents=True, exist_ok=True)
    _copy_runtime(folder / "onnxruntime")
    for path in PAGE.iterdir():
      if path.is_file() and path.name not in ("backend.js", "backend_static.js"):
        shutil.copy(path, folder / path.name)
    shutil.copy(PAGE / "backend_static.js", folder / "backend.js")
    (folder / "model.onnx").unlink(missing_ok=True)  # of a folder of an earlier version
    (folder / MODEL).write_bytes(gzip.compress(model, mtime=0))
    (folder / "examples.json").write_text(json.dumps(examples.describe()), encoding="utf-8")
    for index, arrays in enumerate(examples.arrays):
      for side, array in arrays.items():
        (folder / f"examples/{index}_{side}.npy").write_bytes(payload.to_npy(array))
    sizes = _sizes(folder)
    network = {"multiple": translator.multiple, "masks": [mask._asdict() for mask in masks]}
    network["dropout"] = bool(translator.config.evaluation.dropout)
    about = describe(translator, name)
    about |= {"network": network, "formats": payload.possible_formats(translator.target_signal)}
    about |= {"weights": weights, "bytes": sizes, "metrics": metrics or {}}
    (folder / "model.json").write_text(json.dumps(about), encoding="utf-8")
  except OSError as error:
    raise UsageError(
      f"--static={folder} cannot be written ({error.strerror or error}). Choose another folder."
    ) from error
  sizes = _sizes(folder)
  output.say(
    f"{folder} holds the page: {sum(sizes.values()) / 1e6:.1f} MB, of which the model has {sizes['model'] / 1e6:.1f} "
    f"({weights}), ONNX Runtime {sizes['runtime'] / 1e6:.1f}, and the examples {sizes['examples'] / 1e6:.1f}. Copy it "
    f"to any web host, or look at it with: python -m http.server --directory {folder}"
  )


def _sizes(folder: Path) -> dict[str, int]:
  """Bytes of the parts of the folder."""
  size = lambda paths: sum(path.stat().st_size for path in paths if path.is_file())
  parts = {
    "model": size([folder / MODEL]),
    "runtime": size((folder / "onnxruntime").iterdir()),
    "examples": size((folder / "examples").iterdir()),
  }
  return parts | {"page": size(folder.iterdir()) - parts["model"]}


def _copy_runtime(folder: Path) -> None:
  """Puts the files of ONNX Runtime there, from the npm registry, unless they are there already."""
  if all((folder / name).is_file() for name in RUNTIME_FILES):
    return  # perhaps copied by hand
  by_hand = (
    f"Or copy {', '.join(RUNTIME_FILES).removesuffix('.gz')} of {RUNTIME} (its folder dist) to {folder} yourself, and "
    "compress the last one with gzip."
  )
  npm = shutil.which("npm")
  if not npm:
    raise UsageError(f"--static downloads ONNX Runtime with npm, which is not installed. Install npm. {by_hand}")
  with tempfile.TemporaryDirectory(prefix="pix2pix_jax_") as place:
    done = subprocess.run(
      [npm, "pack", "--silent", RUNTIME], cwd=place, capture_output=True, text=True, encoding="utf-8", check=False
    )
    archives = list(Path(place).glob("*.tgz"))
    if done.returncode or not archives:
      lines = done.stderr.strip().splitlines() or ["npm printed nothing"]
      raise UsageError(f"npm could not fetch {RUNTIME} ({lines[-1]}). Check the network. {by_hand}")
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archives[0]) as archive:
      for name in RUNTIME_FILES:
        source = archive.extractfile(f"package/dist/{name.removesuffix('.gz')}")
        assert source is not None  # a regular file of this version
        content = source.read()
        (folder / name).write_bytes(gzip.compress(content, mtime=0) if name.endswith(".gz") else content)
    (folder / WASM).unlink(missing_ok=True)  # of an earlier version
