"""The wheel and the sdist: what they hold, and that an installed wheel works without the repository."""

import ast
import email
from importlib import metadata
import json
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile

import numpy as np
from packaging.requirements import Requirement
from PIL import Image
import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FILES = {
  path.relative_to(ROOT).as_posix()
  for path in (ROOT / "pix2pix_jax").rglob("*")
  if path.suffix in (".py", ".html", ".css", ".js", ".svg") and "__pycache__" not in path.parts
}
TINY = {  # a network of 3 levels and 2 features on four 16×16 façades
  "data.load_size": 18,
  "data.crop_size": 16,
  "data.num_train": 4,
  "data.num_val": 2,
  "data.num_test": 2,
  "model.base_features": 2,
  "model.levels": 3,
  "model.patch": 16,
  "train.num_steps": 2,
  "evaluation.batch_size": 2,
}


@pytest.fixture(scope="module")
def archives(tmp_path_factory) -> tuple[Path, Path]:
  """(wheel, sdist), built without a network from a copy of the tree, which holds what a clone holds."""
  pytest.importorskip("setuptools", "77")
  folder = tmp_path_factory.mktemp("build")
  clone = folder / "clone"
  kept_out = shutil.ignore_patterns("__pycache__", ".*", "*.egg-info", "build", "dist", "runs")
  shutil.copytree(ROOT, clone, ignore=kept_out)
  wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
  subprocess.run([*wheel, "--wheel-dir", folder, clone], check=True)
  sdist = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
  subprocess.run([sys.executable, "-c", sdist, folder], cwd=clone, check=True, capture_output=True)
  return next(folder.glob("*.whl")), next(folder.glob("*.tar.gz"))


def test_the_wheel_holds_the_package_and_nothing_else(archives):
  with zipfile.ZipFile(archives[0]) as wheel:
    names = set(wheel.namelist())
    (information,) = {name.split("/")[0] for name in names if ".dist-info/" in name}
    entry_points = wheel.read(f"{information}/entry_points.txt").decode()
    described = email.message_from_bytes(wheel.read(f"{information}/METADATA"))
  assert {name for name in names if not name.startswith(information)} == FILES
  assert {"pix2pix_jax/configs/kitti.py", "pix2pix_jax/report_template.html"} <= FILES
  assert f"{information}/licenses/LICENSE" in names
  assert entry_points.split() == ["[console_scripts]", "pix2pix_jax", "=", "pix2pix_jax.__main__:main"]
  assert described["Version"] == re.search(r'__version__ = "(.+)"', (ROOT / "pix2pix_jax/__init__.py").read_text())[1]
  assert set(described.get_all("Provides-Extra")) == {
    "beam",
    "cuda",
    "demo",
    "geo",
    "medical",
    "onnx",
    "static",
    "tiff",
    "test",
  }


def test_the_sdist_holds_everything_that_builds_the_wheel(archives):
  with tarfile.open(archives[1]) as sdist:
    names = {name.partition("/")[2] for name in sdist.getnames()}
  assert {*FILES, "pyproject.toml", "README.md", "LICENSE"} <= names
  assert not [name for name in names if name.startswith(("tests", "benchmarks", "notebooks"))]


@pytest.fixture(scope="module")
def installed(archives, tmp_path_factory):
  """A function that runs a command of an environment with the wheel.

  It runs in an empty folder whose path has a space, in a locale whose text is ASCII, as in many containers.
  """
  folder = tmp_path_factory.mktemp("an installed wheel") / "here and there"
  environment = folder / "environment"
  subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
  programs = environment / ("Scripts" if os.name == "nt" else "bin")
  install = [
    sys.executable,
    "-m",
    "pip",
    "--python",
    programs / "python",
    "install",
    "--quiet",
    "--no-index",
    "--no-deps",
  ]
  subprocess.run([*install, archives[0]], check=True)
  # The dependencies are those of the environment that runs the tests. Its own pix2pix_jax, an editable install, is not
  # visible: that works by a .pth file, and those are read only in an environment's own folders.
  (site_packages,) = environment.rglob("site-packages")
  (site_packages / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
  (folder / "empty").mkdir()
  variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "GLIBC_TUNABLES")}
  variables |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}

  def run(program: str, *arguments: str) -> str:
    command = [programs / program, *arguments]
    done = subprocess.run(
      command, cwd=folder / "empty", env=variables, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout

  run.folder = folder / "empty"
  return run


def test_the_installed_command_shows_help_and_fields(installed):
  where = installed("python", "-c", "import pix2pix_jax; print(pix2pix_jax.__file__)").strip()
  assert Path(where).is_relative_to(installed.folder.parent / "environment")
  assert "import-torch" in installed("pix2pix_jax", "--help")
  assert installed("python", "-m", "pix2pix_jax", "--help") == installed("pix2pix_jax", "--help")
  assert "winter_summer" in installed("pix2pix_jax", "train", "--help")
  assert "data.source_dir = ''" in installed("pix2pix_jax", "fields", "source_dir")


def test_the_installed_commands_train_and_use_a_model(installed):
  folder = installed.folder
  overrides = [f"--config.{name}={value}" for name, value in TINY.items()]
  installed("pix2pix_jax", "train", "--config=procedural", "--workdir=runs/w", *overrides)
  assert json.loads((folder / "runs/w/config.json").read_text())["model"]["output_channels"] == 3
  installed("pix2pix_jax", "evaluate", "--workdir=runs/w", "--split=test")
  assert json.loads((folder / "runs/w/eval/test/metrics.json").read_text())["count"] == 2
  labels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
  Image.fromarray(labels).save(folder / "the labels.png")
  installed("pix2pix_jax", "translate", "--workdir=runs/w", "--input=the labels.png", "--output=photo.png")
  assert np.asarray(Image.open(folder / "photo.png")).std() > 0
  installed("pix2pix_jax", "report", "--workdir=runs/w")
  assert "<html" in (folder / "runs/w/report/index.html").read_text(encoding="utf-8")
  installed("pix2pix_jax", "export", "--workdir=runs/w", "--output=g.stablehlo")
  load = (
    "import jax.export; print(jax.export.deserialize(bytearray(open('g.stablehlo', 'rb').read())).out_avals[0].dtype)"
  )
  assert installed("python", "-c", load).strip() == "uint8"


def requirements(lines) -> list[Requirement]:
  return [Requirement(line.partition("#")[0]) for line in lines if re.match(r"[a-zA-Z]", line)]


def test_every_import_of_the_package_is_a_dependency_or_an_extra():
  extras = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
  declared = {requirement.name.replace("-", "_") for requirement in requirements([*PROJECT["dependencies"], *extras])}
  homes = metadata.packages_distributions()
  for name in sorted(FILES):
    if not name.endswith(".py"):
      continue
    for node in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8"))):
      modules = []
      if isinstance(node, ast.Import):
        modules = [alias.name for alias in node.names]
      elif isinstance(node, ast.ImportFrom):
        modules = [node.module]
      for module in {module.split(".")[0] for module in modules} - sys.stdlib_module_names - {"pix2pix_jax"}:
        providers = {home.replace("-", "_") for home in homes.get(module, [module])}
        assert providers & declared, f"{name} imports {module}"


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-cuda.txt"])
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_the_pinned_versions_lie_in_the_declared_ranges(file, python):
  pins = requirements((ROOT / file).read_text(encoding="utf-8").splitlines())
  chosen = [pin for pin in pins if pin.marker is None or pin.marker.evaluate({"python_version": python})]
  versions = {pin.name: str(pin.specifier).removeprefix("==") for pin in chosen}
  assert len(versions) == len(chosen)
  assert ("jax" in versions) and (file != "requirements.txt" or versions["jax"] == versions["jaxlib"])
  declared = requirements(PROJECT["dependencies"])
  for requirement in declared:
    name = requirement.name.replace("importlib_resources", "importlib-resources")
    if name in versions:
      assert requirement.specifier.contains(versions[name]), requirement
    else:
      assert file != "requirements.txt" or name == "tensorflow", f"{name} is not pinned"


def test_no_text_advises_to_install_what_is_not_published():
  """The package is in no index: an extra is named by its own package, or with the URL of a repository."""
  texts = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("notebooks/*.ipynb"), *map(ROOT.joinpath, FILES)]
  for path in texts:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"pip install [^\n`]*(?<![\w/.-])pix2pix_jax(\[\w+\])?(?! @|\w|\[)", text), path
    for extra in re.findall(r"pix2pix_jax\[(\w+)\]", text) + re.findall(r"pip install [^\n`]*\.\[(\w+)\]", text):
      assert extra in PROJECT["optional-dependencies"], f"{path} names the extra {extra}"
