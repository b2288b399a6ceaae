"""The report of a workdir: one self-contained HTML page with images, curves, metrics and configuration.

    python -m pix2pix_jax.report --workdir=DIR

writes `DIR/report/index.html`. The page works offline, and the run may still be in progress. This module turns the
workdir into one JSON object; `report_template.html` displays it.
"""

import base64
from collections.abc import Mapping
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
from pix2pix_jax.errors import CommandParser, UsageError, run_command, user_path
from pix2pix_jax.output import counted
from pix2pix_jax.run import checkpoint, history, replicas, viz
from pix2pix_jax.run.experiment import Experiment

MAX_SAMPLES = 40  # sample grids
SAMPLE_BYTES, EVALUATION_BYTES = 8_000_000, 4_000_000  # limits for sample grids and for evaluations
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
  workdir = user_path("--workdir", workdir)
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
  """The content of the page, with images as data URIs."""
  run = Experiment.read(workdir)
  config = run.config
  rows, splits, parameters = history.read(workdir), _splits(workdir, config), run.count_parameters()
  data = config.data
  return {
    "what": _describe(config),
    "name": workdir.resolve().name,
    "time": f"{datetime.datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
    "heading": TASKS.get(data.task if data.name == "procedural" else data.name, "Image pairs"),
    "step": rows[-1]["step"] if rows else 0,
    "num_steps": config.train.num_steps,
    "parameters": list(parameters.values()),
    "unit": run.spec.target.unit,
    "formula": run.loss_formula(),
    "facts": _facts(run, parameters, splits),
    "networks": _networks(run),
    "best_metric": config.train.best_metric,
    "best_step": _best_step(workdir, config),
    "baselines": next((split["summary"].get("baselines", {}) for split in splits if split["name"] == "val"), {}),
    "changes": _changes(workdir),
    "samples": _samples(workdir, config),
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
  """The content of a JSON file; an empty dict if the file is missing or only partly written."""
  try:
    return json.loads(path.read_text(encoding="utf-8"))
  except (OSError, json.JSONDecodeError):
    return {}


def _thin(items: list[Any], limit: int) -> list[Any]:
  """At most `limit` evenly spaced items, including the first and the last."""
  if len(items) <= limit:
    return items
  return [items[round(i * (len(items) - 1) / (limit - 1))] for i in range(limit)]


def _size_or_own(shape: tuple[int, int] | None) -> str:
  return _size(*shape) if shape else "each image's own size"


def _size(height: int, width: int) -> str:
  """For example "512×256": every size on the page is width × height."""
  return f"{width}×{height}"


def _generator(config: ml_collections.ConfigDict) -> str:
  return {"unet": "U-Net", "encoder_decoder": "encoder-decoder"}.get(config.model.generator, config.model.generator)


def _describe(config: ml_collections.ConfigDict) -> str:
  """The model and its data in a sentence."""
  data, model, folder = config.data, config.model, Path(config.data.source_dir).name
  network = f"{'An' if model.generator == 'encoder_decoder' else 'A'} {_generator(config)}"
  network += (
    f" with a {model.patch}×{model.patch} PatchGAN," if config.loss.gan != "none" else " without a discriminator,"
  )
  source = {"procedural": "built-in scenes", "arrays": "arrays", "folder": f"the folder {folder}"}.get(
    data.name, data.name + (f" (folder {folder})" if folder else "")
  )
  return f"{network} trained on {source} at {_size(*config_lib.crop_shape(data))} (width × height)."


def _facts(run: Experiment, parameters: dict[str, int], splits: list[dict[str, Any]]) -> dict[str, str]:
  """Facts about the data, the networks and the run; those that do not apply are left out."""
  config = run.config
  data, model, loss, train, optimizer = config.data, config.model, config.loss, config.train, config.optimizer
  crop = _size(*config_lib.crop_shape(data))
  decay = f", falling to 0 over the last {optimizer.decay_fraction:.0%} of the run" if optimizer.decay_fraction else ""
  names = {"procedural": f"built-in scenes, task {data.task}", "arrays": "arrays in memory"}
  gan = "" if loss.gan == "none" else f"; {loss.gan} GAN"
  gan += f"; R1 penalty on the discriminator, γ {loss.r1_weight:g}" if loss.r1_weight else ""
  several = f"{model.discriminators} scales of a " if model.discriminators > 1 else ""
  discriminator = (
    f"{several}{model.patch}×{model.patch} PatchGAN{'' if model.conditional else ', not conditional'}"
    f"{', spectral norm' if model.spectral_norm else ''}; {parameters['discriminator']:,} parameters"
  )
  widths = "" if model.generator.startswith("resnet") else f"{model.decoder_widths} widths from "
  resized = ", resize-convolutions" if model.upsample == "resize" else ""
  seeds = f"seed {config.seed}"
  if train.num_replicas > 1:
    seeds = f"{train.num_replicas} replicas, seeds {config.seed} to {replicas.seeds(config)[-1]}"
  facts = {
    "Data": names.get(data.name, data.name),
    "Source folder": Path(data.source_dir).name,
    "Pairs": ", ".join(f"{count:,} {name}" for name, count in _counts(config, splits).items() if count)
    or "not recorded in this workdir",
    "Input": run.spec.input.describe(),
    "Target": run.spec.target.describe(),
    "Sizes": f"crops of {crop} from {_size_or_own(config_lib.load_shape(data))}, evaluated at "
    f"{_size_or_own(config_lib.eval_resize(data))} (width × height)",
    "Generator": f"{_generator(config)}, {widths}{model.base_features} features, {model.norm} norm, "
    f"{model.levels} levels{resized}; {parameters['generator']:,} parameters",
    "Discriminator": "not used" if loss.gan == "none" else discriminator,
    "Loss": f"{run.describe_loss()}{gan}",
    "Optimizer": f"Adam, learning rate {optimizer.learning_rate:g}{decay}, "
    f"β\u00a0{optimizer.beta1:g}\u00a0and\u00a0{optimizer.beta2:g}",
    "Training": f"{counted(train.num_steps, 'step')}, batch size {train.batch_size}, {seeds}, {train.dtype}"
    + (f"; evaluated with the moving average of the weights, decay {train.ema_decay:g}" if train.ema_decay else ""),
  }
  return {name: fact for name, fact in facts.items() if fact}


def _counts(config: ml_collections.ConfigDict, splits: list[dict[str, Any]]) -> dict[str, int]:
  """Pairs in each split: as recorded by training, else as configured, else of the splits that were evaluated."""
  recorded = re.findall(r"(\w+) (\d+)", config.data.fingerprint.partition(";")[0])
  if recorded:
    return {name: int(count) for name, count in recorded}
  if config.data.name == "procedural":
    return {"train": config.data.num_train, "val": config.data.num_val, "test": config.data.num_test}
  return {split["name"]: split["summary"].get("count", 0) for split in splits if "@" not in split["name"]}


def _best_step(workdir: Path, config: ml_collections.ConfigDict) -> int | None:
  """The step that commands mean by "best"; None before a validated checkpoint is saved."""
  if not (workdir / "checkpoints").is_dir():
    return None
  with checkpoint.Checkpointer(workdir, config=config, read_only=True) as checkpointer:
    best = checkpointer.best()
  return best and best[0]


def _networks(run: Experiment) -> list[dict[str, Any]]:
  """Every parameter of both networks with its shape."""
  networks = []
  for network, shapes in run.parameters.items():
    rows: list[list[Any]] = [[name, "×".join(map(str, shape)), math.prod(shape)] for name, shape in shapes.items()]
    networks.append({"name": network, "rows": rows, "count": sum(row[-1] for row in rows)})
  return networks


def _changes(workdir: Path) -> list[dict[str, Any]]:
  """The configuration changes at resumes: step, time, and [field, before, after] of each field."""
  return [
    {
      "step": row["step"],
      "time": row.get("time", ""),
      "fields": [[name, *pair] for name, pair in row["changes"].items()],
    }
    for row in config_lib.read_changes(workdir)
  ]


def _encode(source: Path | Image.Image, scale: float | None) -> dict[str, Any]:
  """An image's data URI, width and height: a file unchanged, an image as PNG, or with `scale` either as a JPEG."""
  with Image.open(source) if isinstance(source, Path) else source.copy() as image:
    buffer = io.BytesIO()
    image.load()  # raises for a damaged file
    width, height, kind = *image.size, "jpeg" if scale else (image.format or "png").lower()
    if scale:
      width, height = (max(1, round(side * scale)) for side in image.size)
      smaller = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
      smaller.save(buffer, "jpeg", quality=88, subsampling=0)  # full colour resolution, for the edges of label maps
    elif isinstance(source, Path):
      buffer.write(source.read_bytes())
    else:
      image.save(buffer, "png")
  uri = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
  return {"uri": uri, "width": width, "height": height}


def _embed(sources: Mapping[str, Path | Image.Image], limit: int) -> tuple[dict[str, dict[str, Any]], str]:
  """Encodes images into at most `limit` bytes in total; also returns a note for the reader."""
  encoded, broken, scale = {}, [], None
  for name, source in sources.items():
    try:
      encoded[name] = _encode(source, None)
    except (OSError, SyntaxError, ValueError):  # Pillow's exceptions for damaged files
      broken.append(name)
  while (size := sum(len(image["uri"]) for image in encoded.values())) > limit and (scale is None or scale > 0.05):
    scale = 1.0 if scale is None else scale * min(0.9, math.sqrt(limit / size))
    encoded = {name: _encode(sources[name], scale) for name in encoded}
  note = f"To keep this page small, images are JPEGs at {scale:.0%} of their size. " if scale else ""
  return encoded, note + (f"Unreadable and left out: {', '.join(broken)}." if broken else "")


def _samples(workdir: Path, config: ml_collections.ConfigDict) -> dict[str, Any]:
  """The sample grids in order, without their labels, which the page shows as text.

  If some grids do not describe their layout, such as those of older versions, all are shown whole, labels included.
  """
  paths = sorted(path for path in (workdir / "samples").glob("step_*.png") if path.stem[5:].isdigit())
  shown = {path.name: path for path in _thin(paths, MAX_SAMPLES)}
  opened = {name: _open_sheet(path) for name, path in shown.items()}
  unlabelled = {name: grid.crop(layout["body"]) for name, (grid, layout) in opened.items() if grid}
  layouts = [layout for grid, layout in opened.values() if grid]
  has_labels = len(unlabelled) < len(shown) or not layouts
  sources: Mapping[str, Path | Image.Image] = shown if has_labels else unlabelled
  encoded, note = _embed(sources, SAMPLE_BYTES)
  if len(paths) > MAX_SAMPLES:
    note = f"{MAX_SAMPLES} of {len(paths)} grids are shown, evenly chosen. {note}"
  if config.train.num_replicas > 1:
    note = f"The images are those of the replica with seed {config.seed}; metrics are means over all replicas. {note}"
  return {
    "pictures": [{"step": int(shown[name].stem[5:]), **image} for name, image in encoded.items()],
    "columns": [] if has_labels else layouts[-1]["columns"],
    "scales": [] if has_labels else max((one["scales"] for one in layouts), key=_count_swatches),
    "note": note,
  }


def _count_swatches(scales: list[dict[str, Any]]) -> int:
  """The entries of all legends: the scales of a grid with pixels without a value explain those of the others, too."""
  return sum(len(scale.get("legend", [])) for scale in scales)


def _curves(rows: list[dict[str, float]]) -> dict[str, Any]:
  """All validations and at most MAX_POINTS of the other rows, without the scalars of single replicas."""
  rows = [{name: value for name, value in row.items() if "/replica_" not in name} for row in rows]
  validates = [any(name.startswith("val/") for name in row) for row in rows]
  training = [row for row, is_validation in zip(rows, validates) if not is_validation]
  kept = {id(row) for row in _thin(training, MAX_POINTS)}
  note = (
    f"Training curves show {MAX_POINTS} of {len(training)} points, evenly chosen." if len(training) > MAX_POINTS else ""
  )
  shown = [row for row, is_validation in zip(rows, validates) if is_validation or id(row) in kept]
  if any(name.endswith("/std") for row in rows for name in row):
    note = f"{note} {viz.ABOUT_BANDS}"
  return {"rows": shown, "rows_note": note}


def _splits(workdir: Path, config: ml_collections.ConfigDict) -> list[dict[str, Any]]:
  """The results that `evaluate` wrote, for each folder: summary, images and per-image rows."""
  folders = sorted(path for path in (workdir / "eval").glob("*") if path.is_dir())
  splits = []
  for folder in folders:
    chosen = [path for path in (folder / "best.png", folder / "worst.png") if path.exists()] or list(
      folder.glob("grid.png")
    )
    images, note = _sheets(chosen, EVALUATION_BYTES // len(folders))
    columns, rows = _per_image(folder / "per_image.csv")
    summary = _read_json(folder / "metrics.json")
    splits.append(
      {
        "name": folder.name,
        "title": _title(folder.name),
        "summary": summary,
        "protocol": _protocol(summary.get("protocol", {}), config),
        "note": note,
        "columns": columns,
        "rows": rows[:MAX_ROWS],
        "count": len(rows),
        "pictures": images,
      }
    )
  return splits


def _title(folder: str) -> str:
  """`test@step800,dropout=off` → "Split test, dropout off": the differences from the run, except for the step."""
  split, _, rest = folder.partition("@")
  words = {"data": "data of", "dropout": "dropout", "norm_stats": "norm statistics:"}
  parts = [part.partition("=") for part in rest.split(",") if not re.fullmatch(r"(step\d+)?", part)]
  return ", ".join([f"Split {split}", *(f"{words.get(name, name)} {value}".strip() for name, _, value in parts)])


def _protocol(protocol: dict[str, Any], config: ml_collections.ConfigDict) -> list[str]:
  """The protocol of an evaluation as sentences; empty if it was not recorded."""
  rest = dict(protocol)
  sentences = []
  dropout, norm_stats, seed = rest.pop("dropout", None), rest.pop("norm_stats", None), rest.pop("seed", None)
  if dropout is not None and config.model.dropout_blocks:
    noise = f"; its noise follows from seed {seed}" if seed is not None and "replicas" not in rest else ""
    sentences.append(f"Dropout stays on, as in training{noise}." if dropout else "Dropout is off.")
  statistics = {
    "image": "each image's own statistics",
    "batch": "the statistics of each batch of images",
    "running": "running averages from training",
  }
  if norm_stats in statistics and config.model.norm == "batch":
    sentences.append(f"Batch norm uses {statistics[norm_stats]}.")
  size = rest.pop("height_width", None)
  if size is not None:
    about = f"are {_size(*size)} pixels (width × height)" if size else "keep their own sizes"
    sentences.append(f"Images {about}.")
  data, folder = rest.pop("data", ""), Path(rest.pop("source_dir", "")).name
  if data:
    source = {"procedural": "built-in scenes", "arrays": "arrays in memory"}.get(data, f"data set {data}")
    sentences.append(f"Data: {source}{f', folder {folder}' if folder else ''}.")
  rest.pop("scale", None)  # the table of metrics has it
  fid = rest.pop("fid", "")
  if fid:
    sentences.append(f"FID and KID were {fid}." if fid.startswith("not ") else f"FID and KID: {fid}.")
  return sentences + [f"{name.replace('_', ' ').capitalize()}: {value}." for name, value in rest.items() if value != ""]


def _sheets(paths: list[Path], limit: int) -> tuple[list[dict[str, Any]], str]:
  """For each sheet: name, columns, scales, and rows with id, metric and images. Also returns a note for the reader.

  The images are cut out of the sheets, so that the page shows their labels as text. A sheet that does not describe its
  layout is shown whole.
  """
  sources: dict[str, Path | Image.Image] = {}
  layouts: dict[str, dict[str, Any]] = {}
  for path in paths:
    sheet, layout = _open_sheet(path)
    if sheet is None:
      sources[path.name] = path
      continue
    layouts[path.name] = layout
    for i, boxes in enumerate(layout["boxes"]):
      for column, box in zip(layout["columns"], boxes):
        sources[f"{path.name}, row {i + 1}, {column}"] = sheet.crop(box)
  encoded, note = _embed(sources, limit)
  images = []
  for path in paths:
    if path.name in encoded:
      images.append({"name": path.stem, **encoded[path.name]})
    elif path.name in layouts:
      layout = layouts[path.name]
      rows = [
        {
          "id": name,
          "metric": metric,
          "images": [encoded[f"{path.name}, row {i + 1}, {one}"] for one in layout["columns"]],
        }
        for i, (name, metric) in enumerate(layout["captions"])
      ]
      images.append({"name": path.stem, "columns": layout["columns"], "scales": layout["scales"], "rows": rows})
  return images, note


def _open_sheet(path: Path) -> tuple[Image.Image | None, dict[str, Any]]:
  """The pixels and the layout of a sheet or sample grid that describes itself; (None, {}) for any other file."""
  try:
    with Image.open(path) as image:
      image.load()
      layout = json.loads(getattr(image, "text", {})[viz.LAYOUT_KEY])
      return image.convert("RGB"), layout
  except (OSError, SyntaxError, ValueError, KeyError):
    return None, {}


def _per_image(path: Path) -> tuple[list[str], list[list[Any]]]:
  """The columns of a per_image.csv and its rows, each [id, number or None, …]."""

  def number(cell):
    try:
      return float(cell)
    except ValueError:
      return None

  table = list(csv.reader(path.read_text(encoding="utf-8").splitlines())) if path.exists() else []
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
  note = f"config.json lacks {counted(lacking, 'newer field')}; the defaults are shown." if lacking else ""
  return {"config": fields, "config_note": note}


def _environment() -> dict[str, str]:
  packages = {name: metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")}
  return {"pix2pix_jax": __version__, **packages, "python": platform.python_version(), "platform": platform.platform()}


def main(argv: list[str] | None = None) -> None:
  parser = CommandParser(prog="pix2pix_jax report", description=__doc__.split("\n")[0])
  parser.add_argument("--workdir", type=Path, required=True, help="workdir of a run, finished or not")
  options = parser.parse_args(argv)
  jax.config.update("jax_platforms", "cpu")  # the GPU's memory may belong to the run being reported on
  path = write(options.workdir)
  print(f"Report written to {path} ({path.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
  run_command(main)
