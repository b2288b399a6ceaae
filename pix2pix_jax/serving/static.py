"""The page as a folder for any web host: the model runs in the browser, by ONNX Runtime in WebAssembly."""

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
RUNTIME = "onnxruntime-web@1.30.0"  # of npm
RUNTIME_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")


def write(translator: Translator, name: str, folder: Path, examples: Examples) -> None:
  """Writes the folder.

  Args:
    translator: the model.
    name: its name on the page.
    folder: folder to write; existing files of the same names are replaced, except those of the runtime.
    examples: pairs to start from.

  Raises:
    UsageError: the package onnx or the runtime cannot be had, or a model that ONNX cannot express.
  """
  try:
    from pix2pix_jax.serving import onnx_graph
  except ImportError as error:
    raise UsageError("--static needs the package onnx, which is not installed: pip install onnx.") from error
  model, masks = onnx_graph.make(translator.config, translator.variables)
  try:
    (folder / "examples").mkdir(parents=True, exist_ok=True)
    _copy_runtime(folder / "onnxruntime")
    for path in PAGE.iterdir():
      if path.is_file() and path.name not in ("backend.js", "backend_static.js"):
        shutil.copy(path, folder / path.name)
    shutil.copy(PAGE / "backend_static.js", folder / "backend.js")
    (folder / "model.onnx").write_bytes(model)
    about = describe(translator, name)
    network = {"multiple": translator.multiple, "masks": [mask._asdict() for mask in masks]}
    network["dropout"] = bool(translator.config.evaluation.dropout)
    about |= {"network": network, "formats": payload.possible_formats(translator.target_signal)}
    (folder / "model.json").write_text(json.dumps(about), encoding="utf-8")
    (folder / "examples.json").write_text(json.dumps(examples.describe()), encoding="utf-8")
    for index, arrays in enumerate(examples.arrays):
      for side, array in arrays.items():
        (folder / f"examples/{index}_{side}.npy").write_bytes(payload.to_npy(array))
  except OSError as error:
    raise UsageError(
      f"--static={folder} cannot be written ({error.strerror or error}). Choose another folder."
    ) from error
  size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
  output.say(
    f"{folder} holds the page and the model ({size / 2**20:.0f} MiB). Copy it to any web host, or look at it with: "
    f"python -m http.server --directory {folder}"
  )


def _copy_runtime(folder: Path) -> None:
  """Puts the files of ONNX Runtime there, from the npm registry, unless they are there already."""
  if all((folder / name).is_file() for name in RUNTIME_FILES):
    return
  by_hand = f"Or copy {', '.join(RUNTIME_FILES)} of {RUNTIME} (its folder dist) to {folder} yourself."
  npm = shutil.which("npm")
  if not npm:
    raise UsageError(f"--static takes ONNX Runtime from npm, which is not installed. Install npm. {by_hand}")
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
        source = archive.extractfile(f"package/dist/{name}")
        assert source is not None  # a regular file of this version
        (folder / name).write_bytes(source.read())
