"""Evaluates a trained model on a split; metrics are computed over every image in it.

    python -m pix2pix_jax.evaluate --workdir=DIR [--split=test] [--step=best|latest|N] [--source_dir=DIR]
    [--inception=FILE] [--recognizer=WORKDIR]

writes metrics.json (means, baselines, count, step, protocol), per_image.csv, grid.png, best.png and worst.png to
eval/SPLIT in the workdir. Results for other data, another protocol or another step than those already there go to a
separate folder, such as `eval/test@step800,dropout=off`.
"""

from collections.abc import Sequence
import os
from pathlib import Path
import re

import ml_collections
import numpy as np

from pix2pix_jax import config as config_lib
from pix2pix_jax import output
from pix2pix_jax.errors import URL, CommandParser, UsageError, nearest_path, run_command, user_path
from pix2pix_jax.run import replicas
from pix2pix_jax.signals import Signal

SPLITS = ("train", "val", "test", "whole")


def evaluate(
  workdir: str | Path,
  *,
  split: str = "val",
  step: str | int | None = None,
  source_dir: str = "",
  reader: str = "",
  dropout: bool | None = None,
  norm_stats: str = "",
  inception: Path | None = None,
  recognizer: Path | None = None,
  baseline: Sequence[str] = ("all",),
):
  """Evaluates a checkpoint of a workdir, writes the results below its `eval/` and prints a table.

  Args:
    workdir: folder of a trained model.
    split: split of the run's data, or of `source_dir`.
    step: `"best"`, `"latest"` or a number; None: best.
    source_dir: raw files of other data; without split folders, all of its pairs form one split, `whole`.
    reader: reader for `source_dir`, if the run used another one (for example, if it trained on built-in data).
    dropout, norm_stats: protocol, if it differs from the run's; recorded in metrics.json.
    inception: pytorch-fid's weights `pt_inception-2015-12-05-6726825d.pth`, for FID and KID; None: computes neither.
    recognizer: workdir of a run that translates this model's targets into classes, for the recognizer score
      (`run/recognizer.py`) of the outputs, of the real targets and of the mean target; None: not computed.
    baseline: names of baselines to measure, `"all"` or `"none"`.

  Returns:
    The `Evaluation`, with per-image metrics.

  Raises:
    UsageError: no such checkpoint, split or baseline, or data whose signals differ from the model's.
  """
  workdir = user_path("--workdir", workdir)
  _check_names(workdir, split, step)
  from pix2pix_jax.data import pipeline, prepare  # imports TensorFlow: slow
  from pix2pix_jax.run import baselines, checkpoint, distances, evaluation, experiment
  from pix2pix_jax.run.recognizer import Recognizer

  trained = experiment.Experiment.read(workdir)
  chosen = baselines.choose(baseline, trained.spec)
  if inception and not has_distances(trained.spec.target):
    raise UsageError(
      f"--inception is for FID and KID of 8-bit RGB images; this model's target is: {trained.spec.target.describe()}."
    )
  recognized = Recognizer(user_path("--recognizer", recognizer), trained.spec) if recognizer else None
  comparison = distances.Comparison(distances.Extractor.load(inception)) if inception else None
  config = configure(workdir, trained.config, source_dir, reader, dropout, norm_stats)
  source = prepare.prepare(config.data, config.model, whole=bool(source_dir))
  split = "whole" if "whole" in source.spec.counts else split
  _require_same_signals(source.spec.input, trained.spec.input, "input")
  _require_same_signals(source.spec.target, trained.spec.target, "target")
  run = experiment.Experiment(config, trained.spec)
  data = pipeline.load_split(source, split, config_lib.eval_resize(config.data), cache_gib=config.data.cache_gib)
  if comparison and len(data) < 2:
    raise UsageError(f"The split {split!r} has {len(data)} image; FID and KID (--inception) need at least two.")

  experiment.use_compilation_cache(config.train.compilation_cache)
  with checkpoint.Checkpointer(workdir, config=trained.config, read_only=True) as checkpointer:
    number, variables = checkpointer.load_variables("best" if step is None else step, trained.abstract())

  has_mean = recognized and "train" in source.spec.counts
  mean = baselines.mean_target(source, config) if has_mean else None

  def compare(batch: dict[str, np.ndarray], output: np.ndarray) -> None:
    if comparison:
      comparison.add(run.spec.target.decode(output), run.spec.target.decode(batch["target"]))
    if recognized:
      images = {"model": output[..., : run.spec.target.channels], "target": batch["target"]}
      if mean is not None:
        images[baselines.MEAN_TARGET] = baselines.at_sizes_of(mean, batch)
      for name, shown in images.items():
        recognized.add(name, batch["input"], shown)

  result = evaluation.evaluate_split(run, variables, data, compare)
  measured = comparison.distances() if comparison else {}
  notes = {"fid": _about_distances(trained.spec.target, len(data), measured)}
  compared = baselines.measure(source, data, config, chosen)
  if recognized:
    scores = recognized.scores()
    measured |= scores.pop("model")
    for name, values in scores.items():
      compared[name] = {**compared.get(name, {}), **values}
  folder = _results_folder(workdir, split, number, step is not None, config, trained.config)
  stored = evaluation.read_summary(folder)
  if stored.get("step") == number:  # keep baselines that were measured earlier but not this time
    compared = {**stored.get("baselines", {}), **compared}
  if recognizer:
    notes["recognizer"] = f"{Path(recognizer).name}; 'target' is the score of the real targets"
  evaluation.write(folder, result, data.ids, number, config, compared, distances=measured, notes=notes)
  chosen_by = f" (best {trained.config.train.best_metric})" if step in (None, "best") else ""
  print(f"{split}: {output.counted(len(data), 'image')}, step {number}{chosen_by}, {_describe_protocol(config)}")
  print(evaluation.table({"model": {**result.means, **measured}, **compared}, trained.spec.target.unit))
  if missing := [name for name in chosen if name not in compared]:
    print(f"  Without {', '.join(missing)}: {config.data.source_dir or config.data.name} has no train split.")
  if comparison:
    print("  fid is biased for few images: only compare FIDs computed from equally many images. kid is unbiased.")
  print(f"Results are in {folder}")
  return result


def _check_names(workdir: Path, split: str, step: str | int | None) -> None:
  """Checks the workdir, and whether it has that split and checkpoint, as far as its files say without TensorFlow.

  Raises:
    UsageError: with the names that there are.
  """
  replicas.require_one(config_lib.read(workdir), workdir)
  if split not in SPLITS:
    near = [name for name in SPLITS if split.lower().startswith(name) or name.startswith(split.lower())]
    raise UsageError(f"--split is {split!r}; {f'did you mean {near[0]}?' if near else 'it is train, val or test.'}")
  steps = {path.name for path in (workdir / "checkpoints").glob("*") if path.name.isdigit()}
  if steps and step not in (None, "best", "latest") and str(step) not in steps:
    listed = ", ".join(sorted(steps, key=int))
    raise UsageError(f"{workdir} has no checkpoint {step!r}; it has {listed}, 'best' and 'latest'.")


def configure(
  workdir: Path,
  trained: ml_collections.ConfigDict,
  source_dir: str = "",
  reader: str = "",
  dropout: bool | None = None,
  norm_stats: str = "",
) -> ml_collections.ConfigDict:
  """The run's configuration with other data and another protocol, where they are given.

  Raises:
    UsageError: an unknown reader or protocol, or no files to evaluate on.
  """
  if norm_stats:
    config_lib.require_batch_norm(trained, f"--norm_stats={norm_stats}")
  config = trained.copy_and_resolve_references()
  with config.unlocked():
    config.data.source_dir = config_lib.absolute_source(str(source_dir) or config.data.source_dir)
    config.data.name = reader or config.data.name
    config.evaluation.dropout = config.evaluation.dropout if dropout is None else dropout
    config.evaluation.norm_stats = norm_stats or config.evaluation.norm_stats
  config_lib.check(config)
  place = config.data.source_dir
  if place and config.data.name not in ("arrays", "procedural") and not URL.match(place) and not os.path.exists(place):
    if source_dir:
      raise UsageError(f"--source_dir {place!r} does not exist{nearest_path(Path(place)) or '.'}")
    raise UsageError(
      f"The data of the run, {place!r}, does not exist any more{nearest_path(Path(place)) or '.'} Give the folder "
      "where its files are now: --source_dir=DIR."
    )
  if config.data.name == "arrays":
    raise UsageError(
      f"{workdir} was trained on arrays in memory, which are not stored. Use `result.evaluate(x, y)`, or pass files "
      "with --reader=folder --source_dir=DIR."
    )
  return config


def has_distances(target: Signal) -> bool:
  """Whether FID and KID, which are defined for 8-bit RGB images, apply to a target."""
  return target.kind == "image" and target.dtype == "uint8" and target.channels == 3


def _require_same_signals(actual: Signal, expected: Signal, side: str) -> None:
  """Refuses data whose kind or channels differ from the data that the model was trained on."""
  if (actual.kind, actual.channels) != (expected.kind, expected.channels):
    raise UsageError(
      f"The {side} of this data is: {actual.describe()}, but the model was trained on: {expected.describe()}. "
      "Use --source_dir and --reader to choose data of the same kind."
    )


def _about_distances(target: Signal, count: int, measured: dict[str, float]) -> str:
  from pix2pix_jax.run import distances

  if measured:
    subsets = (
      f"{distances.KID_SUBSETS} subsets of {distances.KID_SUBSET_SIZE}" if "kid_std" in measured else "all images"
    )
    return (
      f"{count} translations against {count} targets, Inception-v3 of pytorch-fid; fid is biased, so compare only "
      f"equal counts; kid over {subsets}"
    )
  return "not computed: " + ("no --inception weights given" if has_distances(target) else "the target is not 8-bit RGB")


def _describe_protocol(config: ml_collections.ConfigDict) -> str:
  statistics = config.evaluation.norm_stats
  if config.model.norm != "batch":
    statistics = f"none ({config.model.norm} norm)" if config.model.norm != "none" else "none"
  elif statistics == "batch":
    statistics = f"batches of {config.evaluation.batch_size}"
  return f"dropout {'on' if config.evaluation.dropout else 'off'}, norm statistics: {statistics}"


def _results_folder(
  workdir: Path,
  split: str,
  step: int,
  step_was_given: bool,
  config: ml_collections.ConfigDict,
  trained: ml_collections.ConfigDict,
) -> Path:
  """`eval/SPLIT`, or a folder whose name lists the differences from the results there: data, protocol or step.

  The plain folder is reserved for the run's own data and protocol. An evaluation without `step` may replace its
  results, except in `eval/val`, which holds the validation of the last training step.
  """
  from pix2pix_jax.run import evaluation

  parts = []
  stored = evaluation.read_summary(workdir / "eval" / split).get("step", step)
  if stored != step and (step_was_given or split == "val"):
    parts.append(f"step{step}")
  if config.data.name != trained.data.name or not config_lib.same_source(
    config.data.source_dir, trained.data.source_dir
  ):
    name = Path(config.data.source_dir).name or config.data.name
    parts.append("data=" + re.sub(r"[^\w.-]+", "_", name))
  if config.evaluation.dropout != trained.evaluation.dropout:
    parts.append(f"dropout={'on' if config.evaluation.dropout else 'off'}")
  if config.evaluation.norm_stats != trained.evaluation.norm_stats:
    parts.append(f"norm_stats={config.evaluation.norm_stats}")
  if parts and not parts[0].startswith("step") and step_was_given:
    parts.insert(0, f"step{step}")
  return workdir / "eval" / ("@".join([split, ",".join(parts)]) if parts else split)


def main(argv: list[str] | None = None) -> None:
  parser = CommandParser(prog="pix2pix_jax evaluate", description=__doc__.split("\n")[0])
  parser.add_argument("--workdir", type=Path, required=True, help="workdir of a trained model")
  parser.add_argument("--split", default="val", help="train, val or test (default: val)")
  parser.add_argument("--step", help="best, latest or the number of a checkpoint (default: best)")
  parser.add_argument(
    "--source_dir", default="", help="folder with the raw files of other data (default: the run's data)"
  )
  parser.add_argument("--reader", default="", help="data.name for source_dir, if the run used another reader")
  parser.add_argument(
    "--dropout", choices=("on", "off"), help="turn dropout, the noise, on or off (default: as in the run)"
  )
  parser.add_argument(
    "--norm_stats",
    choices=("image", "batch", "running"),
    default="",
    help="statistics that batch norm uses (default: as in the run)",
  )
  parser.add_argument(
    "--inception",
    type=Path,
    metavar="FILE",
    help="pt_inception-2015-12-05-6726825d.pth of pytorch-fid, for FID and KID (default: neither)",
  )
  parser.add_argument(
    "--recognizer",
    type=Path,
    metavar="WORKDIR",
    help="a run that translates targets into classes, such as facades:labels: measures whether it finds the input's "
    "classes in the outputs (default: not measured)",
  )
  parser.add_argument(
    "--baseline",
    action="append",
    metavar="NAME",
    help="baselines to measure: names joined by commas, all or none; may be repeated (default: all)",
  )
  options = parser.parse_args(argv)
  evaluate(
    options.workdir,
    split=options.split,
    step=options.step,
    source_dir=options.source_dir,
    reader=options.reader,
    dropout=None if options.dropout is None else options.dropout == "on",
    norm_stats=options.norm_stats,
    inception=options.inception,
    recognizer=options.recognizer,
    baseline=options.baseline or ["all"],
  )


if __name__ == "__main__":
  run_command(main)
