"""The report of a workdir: one self-contained HTML page with images, curves, metrics and configuration.

    python -m pix2pix_jax.report --workdir=DIR

writes `DIR/report/index.html`, which works offline, also for a run that is still in progress. This module turns the
workdir into one JSON object; `report_template.html` displays it.
"""

import argparse
import base64
import csv
import datetime
import html
from importlib import metadata
import io
import json
import math
from pathlib import Path
import platform
import re
from typing import Any

from flax.traverse_util import flatten_dict
import jax
import ml_collections
from PIL import Image

from pix2pix_jax import __version__
from pix2pix_jax import config as config_lib
from pix2pix_jax.errors import UsageError, run_command
from pix2pix_jax.run import history
from pix2pix_jax.run.experiment import Experiment

MAX_SAMPLES = 40  # sample grids
SAMPLE_BYTES, EVALUATION_BYTES = 8_000_000, 4_000_000  # limits for the sample grids, and for the grids of evaluations
MAX_POINTS = 2000  # of a training curve
MAX_ROWS = 5000  # of a per-image table
TASKS = {
  "facades": "Façade labels → photographs",
  "winter_summer": "Winter → summer",
  "kitti_depth": "Street images → depth",
  "nyu_depth": "Depth with holes → dense depth",
}


def write(workdir: Path) -> Path:
  """Writes the report of a workdir and returns its path.

  Raises:
    UsageError: no workdir, or one without a valid config.json.
  """
  workdir = Path(workdir)
  if not workdir.is_dir():
    raise UsageError(f"--workdir {workdir} is not a folder. Give the workdir of a run.")
  data = gather(workdir)
  page = {"title": html.escape(f"{data['heading']} · {data['name']}"), "data": _script_json(data)}
  template = Path(__file__).with_name("report_template.html").read_text(encoding="utf-8")
  path = workdir / "report" / "index.html"
  path.parent.mkdir(exist_ok=True)
  part = path.with_suffix(".part")
  part.write_text(re.sub(r"\{\{(\w+)\}\}", lambda match: page[match[1]], template), encoding="utf-8")
  part.replace(path)
  return path


def gather(workdir: Path) -> dict[str, Any]:
  """Everything on the page, with images as data URIs."""
  run = Experiment.read(workdir)
  config = run.config
  rows, splits, parameters = history.read(workdir), _splits(workdir), run.count_parameters()
  data, source = config.data, Path(config.data.source_dir).name
  return {
    "what": f"A {_generator(config)} with a {config.model.patch}×{config.model.patch} PatchGAN, trained on {data.name} "
    f"{f'(folder {source}) ' if source else ''}at {_size(*config_lib.crop_shape(data))}.",
    "name": workdir.resolve().name,
    "time": f"{datetime.datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
    "heading": TASKS.get(data.task if data.name == "procedural" else data.name, "Image pairs"),
    "step": rows[-1]["step"] if rows else 0,
    "num_steps": config.train.num_steps,
    "parameters": list(parameters.values()),
    "facts": _facts(run, parameters, splits),
    "samples": _samples(workdir),
    "splits": splits,
    **_curves(rows),
    **_configuration(workdir, config),
    "environment": _environment(),
  }


def _script_json(value: Any) -> str:
  """JSON that can stand in a script element: without markup, and with null for NaN and infinity."""

  def finite(item):
    if isinstance(item, float) and not math.isfinite(item):
      return None
    if isinstance(item, dict):
      return {key: finite(child) for key, child in item.items()}
    return [finite(child) for child in item] if isinstance(item, (list, tuple)) else item

  text = json.dumps(finite(value), separators=(",", ":"), default=str)
  return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _read_json(path: Path) -> dict[str, Any]:
  """An empty dict where there is none, or half of one that is being written."""
  try:
    return json.loads(path.read_text())
  except (OSError, json.JSONDecodeError):
    return {}


def _thin(items: list[Any], limit: int) -> list[Any]:
  """At most `limit` of the items, evenly, with the first and the last."""
  if len(items) <= limit:
    return items
  return [items[round(i * (len(items) - 1) / (limit - 1))] for i in range(limit)]


def _size(height: int, width: int) -> str:
  return f"{height}×{width}"


def _generator(config: ml_collections.ConfigDict) -> str:
  return {"unet": "U-Net", "encoder_decoder": "encoder-decoder"}.get(config.model.generator, config.model.generator)


def _facts(run: Experiment, parameters: dict[str, int], splits: list[dict[str, Any]]) -> dict[str, str]:
  """What was trained on what."""
  config = run.config
  data, model, loss, train = config.data, config.model, config.loss, config.train
  crop = _size(*config_lib.crop_shape(data))
  counts = {split["name"]: split["summary"].get("count") for split in splits if "@" not in split["name"]}
  source = Path(data.source_dir).name or ("none, arrays" if data.name == "arrays" else "none, downloaded")
  if data.name == "procedural":
    counts, source = {"train": data.num_train, "val": data.num_val, "test": data.num_test}, "none, drawn by code"
  return {
    "Data": f"{data.name}, task {data.task}" if data.name == "procedural" else data.name,
    "Source folder": source,
    "Pairs": ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    or "not recorded in this workdir",
    "Input": run.spec.input.describe(),
    "Target": run.spec.target.describe(),
    "Sizes": f"crops of {crop} from {_size(*config_lib.load_shape(data))}, evaluated at "
    f"{_size(*config_lib.eval_shape(data))} (height × width)",
    "Generator": f"{_generator(config)}, {model.decoder_widths} widths from {model.base_features}, {model.norm} norm, "
    f"{model.levels} levels; {parameters['generator']:,} parameters",
    "Discriminator": f"{model.patch}×{model.patch} PatchGAN{'' if model.conditional else ', not conditional'}"
    f"; {parameters['discriminator']:,} parameters",
    "Loss": f"{'' if loss.gan == 'none' else f'{loss.gan} GAN + '}{loss.l1_weight:g} · L1",
    "Optimizer": f"Adam {config.optimizer.learning_rate:g}, β {config.optimizer.beta1:g} and "
    "{config.optimizer.beta2:g}",
    "Training": f"batch {train.batch_size}, {train.num_steps} steps, seed {config.seed}, {train.dtype}",
  }


def _encode(path: Path, scale: float | None) -> dict[str, Any]:
  """A picture's data URI, width and height: the file as it is or, where a scale is given, a JPEG of that scale."""
  with Image.open(path) as image:
    if scale is None:
      image.load()  # a damaged file shows here
      width, height, kind, content = *image.size, (image.format or "png").lower(), path.read_bytes()
    else:
      width, height = (max(1, round(side * scale)) for side in image.size)
      buffer = io.BytesIO()
      smaller = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
      smaller.save(buffer, "jpeg", quality=88, subsampling=0)  # colours at full resolution: label maps have sharp ones
      kind, content = "jpeg", buffer.getvalue()
  return {"uri": f"data:image/{kind};base64,{base64.b64encode(content).decode()}", "width": width, "height": height}


def _embed(paths: list[Path], limit: int) -> tuple[dict[Path, dict[str, Any]], str]:
  """Pictures of at most `limit` bytes together, and what a reader has to know about them."""
  encoded, broken, scale = {}, [], None
  for path in paths:
    try:
      encoded[path] = _encode(path, None)
    except (OSError, SyntaxError, ValueError):  # what Pillow raises for damaged files
      broken.append(path.name)
  while (size := sum(len(picture["uri"]) for picture in encoded.values())) > limit and (scale is None or scale > 0.05):
    scale = 1.0 if scale is None else scale * min(0.9, math.sqrt(limit / size))
    encoded = {path: _encode(path, scale) for path in encoded}
  note = f"To keep this page small, pictures are JPEGs of {scale:.0%} of their size. " if scale else ""
  return encoded, note + (f"Left out, as not readable: {', '.join(broken)}." if broken else "")


def _samples(workdir: Path) -> dict[str, Any]:
  """The grids of the validations in order."""
  paths = sorted(path for path in (workdir / "samples").glob("step_*.png") if path.stem[5:].isdigit())
  encoded, note = _embed(_thin(paths, MAX_SAMPLES), SAMPLE_BYTES)
  if len(paths) > MAX_SAMPLES:
    note = f"{MAX_SAMPLES} of {len(paths)} grids are shown, evenly chosen. {note}"
  return {"pictures": [{"step": int(path.stem[5:]), **picture} for path, picture in encoded.items()], "note": note}


def _curves(rows: list[dict[str, float]]) -> dict[str, Any]:
  """All validations and at most MAX_POINTS of the other rows."""
  training = [row for row in rows if "val/l1" not in row]
  kept = {id(row) for row in _thin(training, MAX_POINTS)}
  note = (
    f"Training curves show {MAX_POINTS} of {len(training)} points, evenly chosen." if len(training) > MAX_POINTS else ""
  )
  return {"rows": [row for row in rows if "val/l1" in row or id(row) in kept], "rows_note": note}


def _splits(workdir: Path) -> list[dict[str, Any]]:
  """What `evaluate` left: for each split its summary, pictures and per-image rows."""
  folders = sorted(path for path in (workdir / "eval").glob("*") if path.is_dir())
  splits = []
  for folder in folders:
    chosen = [path for path in (folder / "best.png", folder / "worst.png") if path.exists()] or list(
      folder.glob("grid.png")
    )
    encoded, note = _embed(chosen, EVALUATION_BYTES // len(folders))
    columns, rows = _per_image(folder / "per_image.csv")
    splits.append(
      {
        "name": folder.name,
        "summary": _read_json(folder / "metrics.json"),
        "note": note,
        "columns": columns,
        "rows": rows[:MAX_ROWS],
        "count": len(rows),
        "pictures": [{"name": path.stem, **picture} for path, picture in encoded.items()],
      }
    )
  return splits


def _per_image(path: Path) -> tuple[list[str], list[list[Any]]]:
  """The columns of a per_image.csv, and its rows [id, number or None, …]."""

  def number(cell):
    try:
      return float(cell)
    except ValueError:
      return None

  table = list(csv.reader(path.read_text().splitlines())) if path.exists() else []
  columns = table[0] if table else []
  return columns, [[row[0], *map(number, row[1:])] for row in table[1:] if len(row) == len(columns)]


def _flat(config: dict[str, Any]) -> dict[str, Any]:
  """`{"data": {"name": …}}` → `{"data.name": …}`."""
  return {".".join(path): value for path, value in flatten_dict(config).items()}


def _configuration(workdir: Path, config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Every field with its default and meaning."""
  values, known = _flat(config.to_dict()), dict(config_lib.each_field())
  fields = [
    {
      "field": name,
      "value": value,
      "default": known[name].default,
      "changed": known[name].default != value,
      "meaning": known[name].meaning,
    }
    for name, value in values.items()
  ]
  lacking = len(known.keys() - _flat(_read_json(workdir / "config.json")).keys())
  note = f"config.json lacks {lacking} newer fields, which are shown with their defaults." if lacking else ""
  return {"config": fields, "config_note": note}


def _environment() -> dict[str, str]:
  packages = {name: metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")}
  return {"pix2pix_jax": __version__, **packages, "python": platform.python_version(), "platform": platform.platform()}


def main(argv: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(prog="python -m pix2pix_jax.report", description=__doc__.split("\n")[0])
  parser.add_argument("--workdir", type=Path, required=True, help="of a training, finished or not")
  options = parser.parse_args(argv)
  jax.config.update("jax_platforms", "cpu")  # the memory of the GPU may be the training's that is reported on
  path = write(options.workdir)
  print(f"written to {path} ({path.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
  run_command(main)
