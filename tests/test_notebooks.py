"""The notebooks: every cell runs in small mode, and the stored outputs are clean.

After a change, `python tests/test_notebooks.py [NAME ...]` runs the notebooks at full size and stores their outputs.
Each takes two to four minutes on a CPU.
"""

import json
import os
from pathlib import Path
import re
import sys
import tempfile

import jupyter_client
from jupyter_core.utils import run_sync
import nbclient
import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# Paths after a name, "~" or a {variable} are relative.
ABSOLUTE = re.compile(r"(?<![\w.:/~*<>})-])/[A-Za-z_][\w.-]*/|\b[A-Z]:\\\w")
NOISE = re.compile(r"\x1b\[|\d+%\||warning|traceback", re.IGNORECASE)

by_name = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def test_all_notebooks_are_there():
  assert [path.stem for path in NOTEBOOKS] == ["quickstart", "translate", "your_images"]


def kernel_of_this_python(folder: Path) -> jupyter_client.AsyncKernelManager:
  """A kernel of sys.executable, whichever kernels the machine has installed."""
  spec = folder / "kernels" / "this_python"
  spec.mkdir(parents=True)
  (spec / "kernel.json").write_text(
    json.dumps(
      {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "this Python",
        "language": "python",
      }
    )
  )
  specs = jupyter_client.kernelspec.KernelSpecManager(kernel_dirs=[str(folder / "kernels")])
  return jupyter_client.AsyncKernelManager(kernel_name="this_python", kernel_spec_manager=specs)


def execute(notebook: nbformat.NotebookNode, folder: Path) -> None:
  """Runs all cells in `folder`/run, with this package; raises with the traceback of a failing cell."""
  (folder / "run").mkdir()
  kernel = kernel_of_this_python(folder)
  paths = filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
  client = nbclient.NotebookClient(
    notebook,
    km=kernel,
    timeout=3600,
    record_timing=False,
    coalesce_streams=True,
    resources={"metadata": {"path": str(folder / "run")}},
  )
  try:
    client.execute(env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)})
  finally:  # a client leaves kernels that it was given
    run_sync(kernel.shutdown_kernel)(now=True)


def store_outputs(path: Path) -> None:
  """Runs a notebook and replaces its stored outputs."""
  notebook = nbformat.read(path, as_version=4)
  with tempfile.TemporaryDirectory() as folder:
    execute(notebook, Path(folder))
  for output in (output for cell in notebook.cells for output in cell.get("outputs", ())):
    output.get("data", {}).pop("image/jpeg", None)  # Pillow offers each image twice
    if output.output_type == "stream":
      output.text = output.text.replace(str(Path.home()), "~")
  nbformat.write(notebook, path)


@by_name
def test_every_cell_runs(path, tmp_path, monkeypatch):
  monkeypatch.setenv("PIX2PIX_NOTEBOOK_SMALL", "1")
  monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
  monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
  monkeypatch.setenv("TMPDIR", str(tmp_path))
  notebook = nbformat.read(path, as_version=4)
  probe = nbformat.v4.new_code_cell(
    "import sys; print(sys.executable); import pix2pix_jax; print(pix2pix_jax.__file__)"
  )
  notebook.cells.append(probe)
  execute(notebook, tmp_path)
  printed = "".join(output.text for output in probe.outputs if output.output_type == "stream")
  executable, package = printed.split("\n")[:2]
  assert executable == sys.executable
  assert Path(package).resolve() == ROOT / "pix2pix_jax/__init__.py"


@by_name
def test_stored_outputs_are_clean(path):
  notebook = nbformat.read(path, as_version=4)
  nbformat.validate(notebook)
  assert path.stat().st_size <= 700_000
  code = [cell for cell in notebook.cells if cell.cell_type == "code"]
  assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "run from top to bottom"
  outputs = [output for cell in code for output in cell.outputs]
  assert {output.output_type for output in outputs} <= {"stream", "display_data", "execute_result"}, "no errors"
  assert {output.name for output in outputs if output.output_type == "stream"} <= {"stdout"}
  assert any("image/png" in output.get("data", {}) for output in outputs)
  shown = [output.get("text", "") or output.data.get("text/plain", "") for output in outputs]
  for text in [*shown, *(cell.source for cell in notebook.cells)]:
    assert not ABSOLUTE.search(text), f"absolute path: {ABSOLUTE.search(text)[0]!r}"
  for text in shown:
    assert not NOISE.search(text), f"noise: {NOISE.search(text)[0]!r}"


@pytest.mark.parametrize(
  "text, found",
  [
    ("see /tmp/abc/x", True),
    ("in '/root/.cache'", True),
    ("(/home/someone/runs)", True),
    ("C:\\Users", True),
    ("cache /var/", True),
    ("runs/demo/eval", False),
    ("~/.cache/pix2pix_jax/x", False),
    ("https://arxiv.org/abs/1611.07004", False),
    ("input / output", False),
    ("step 2/4", False),
    ("y / 255", False),
    ("side/2", False),
    ("</b>", False),
    ("{folder}/in/x", False),
  ],
)
def test_absolute_paths_are_recognised(text, found):
  assert bool(ABSOLUTE.search(text)) == found


if __name__ == "__main__":
  for notebook_path in NOTEBOOKS:
    if notebook_path.stem in sys.argv[1:] or not sys.argv[1:]:
      print(notebook_path.name, flush=True)
      store_outputs(notebook_path)
