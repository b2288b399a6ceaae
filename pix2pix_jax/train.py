"""The training loop: data, networks, state, resume, steps, validation, checkpoints, in the order in which they happen."""

from __future__ import annotations

from pathlib import Path
import signal

from clu import metric_writers, parameter_overview  # after pipeline, which keeps TensorFlow off the GPU
import jax
from jax.sharding import NamedSharding, PartitionSpec
import ml_collections

from pix2pix_jax import evaluate
from pix2pix_jax.data import pipeline
from pix2pix_jax.data import prepare as datasets
from pix2pix_jax.errors import UsageError
from pix2pix_jax.model import networks as models
from pix2pix_jax.model import state as train_state
from pix2pix_jax.model import steps
from pix2pix_jax.model.state import TrainState
from pix2pix_jax.run import checkpoint
from pix2pix_jax.run.reporter import Reporter, require_finite


def train_and_evaluate(
  config: ml_collections.ConfigDict,
  workdir: str | Path,
  *,
  source: pipeline.Source | None = None,
  observer: Observer | None = None,
) -> TrainState:
  """Trains to the config's last step, from the newest checkpoint in `workdir` if there is one.

  Args:
    source: of the pairs; by default what `config.data` says.
    observer: is told of every step, and may end the training.

  Leaves in `workdir`: config.json, checkpoints/, TensorBoard event files, history.jsonl, samples/, curves.png and eval/val/.

  Raises:
    UsageError: what the user can mend: data, sizes, a workdir of another architecture, a loss that became NaN.
    KeyboardInterrupt: after Ctrl-C or SIGTERM, once the state is saved.
  """
  workdir = Path(workdir)
  steps.use_compilation_cache(config.train.compilation_cache)
  mesh = steps.make_mesh()
  steps.check_divides(config.train.batch_size, mesh)
  replicated, split_rows = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))

  source = source or pipeline.PreparedSource(datasets.prepare(config.data))
  config = resolve(config, source)
  checkpoint.save_config(workdir, config)
  limits = {"cache_gib": config.data.cache_gib, "depth_range": config.data.depth_range}
  train_split = pipeline.load_split(source, "train", datasets.load_shape(config.data), **limits)
  val_split = None
  if "val" in source.counts:
    val_split = pipeline.load_split(source, "val", datasets.eval_shape(config.data), **limits)

  generator, discriminator = models.make_networks(config.model, dtype=config.train.dtype, remat=config.train.remat)
  checkpointer = checkpoint.Checkpointer(workdir)
  start = checkpointer.latest_step() or 0
  if start:
    state = checkpointer.restore(start, train_state.abstract(config, generator, discriminator, mesh))
  else:
    initial = jax.jit(
      lambda: train_state.initial(config, generator, discriminator),
      out_shardings=replicated,
      compiler_options={"xla_backend_optimization_level": 1},
    )  # runs once: fast to compile is what counts
    state = initial()

  networks = {"generator": generator, "discriminator": discriminator}
  optimizer = train_state.make_optimizer(config.optimizer, config.train.num_steps)
  train_step = steps.compile_train_step(mesh, **networks, optimizer=optimizer, loss=config.loss, seed=config.seed)
  eval_step = steps.compile_eval_step(mesh, **networks, **steps.evaluation_settings(config))
  batches = pipeline.to_devices(
    pipeline.train_batches(
      train_split, config.data, batch_size=config.train.batch_size, seed=config.seed, start_step=start
    ),
    split_rows,
  )

  reporter = Reporter(
    _make_writer(workdir),
    workdir,
    start=start,
    num_steps=config.train.num_steps,
    log_every_steps=config.train.log_every_steps,
  )
  reporter.say(_describe(config, state, start, train_split, val_split, mesh))
  best = checkpointer.best()
  observer = observer or Observer()
  step, evaluation = start, None
  if (
    val_split and not start
  ):  # the untrained networks: where the curves begin, and a fault in the data shows now, not in an hour
    evaluation = evaluate.evaluate_split(eval_step, state, val_split, config, mesh)
    reporter.validated(0, evaluation.means, evaluation.grid)
  with _StopOnSignal() as stop:
    for step in range(start + 1, config.train.num_steps + 1):
      with reporter.data_wait():
        batch = next(batches)
      observer.step_begins(step)
      state, metrics = train_step(state, batch)
      last = step == config.train.num_steps
      stopping = stop.asked  # read once: a signal that comes later stops the next step, and so no step is left unsaved
      reporter.trained(step, metrics, last=last or stopping)

      with reporter.pause():
        evaluation, improved = None, False
        if val_split and (last or step % config.train.eval_every_steps == 0):
          evaluation = evaluate.evaluate_split(eval_step, state, val_split, config, mesh)
          reporter.validated(step, evaluation.means, evaluation.grid)
          improved = best is None or evaluation.means[checkpoint.BEST_METRIC] < best[1]
        if improved:
          best = step, evaluation.means[checkpoint.BEST_METRIC]
        if improved or last or stopping or step % config.train.checkpoint_every_steps == 0:
          require_finite(step, jax.device_get(metrics))
          checkpointer.save(step, state, evaluation and evaluation.means)
        stopping |= observer.step_ended(step, metrics, evaluation)
      if stopping:
        break
  checkpointer.close()
  reporter.close()
  if step < config.train.num_steps:
    reporter.say(f"Stopped at step {step} of {config.train.num_steps}; the same command goes on from there.")
    if stop.by_signal:
      raise KeyboardInterrupt
  if evaluation and jax.process_index() == 0:
    compared = evaluate.baselines(source, val_split, config)
    evaluate.write(workdir / "eval" / "val", evaluation, val_split.ids, step, config, compared)
    reporter.say(
      f"Validation at the last step, {len(val_split)} images:\n{evaluate.table({'model': evaluation.means, **compared})}\n"
      f"Best validation {checkpoint.BEST_METRIC}: {best[1]:.4f} at step {best[0]}."
    )
  reporter.say(
    f"{workdir} holds samples/, curves.png, eval/ and checkpoints/; tensorboard --logdir={workdir} shows the rest."
  )
  return state


class Observer:
  """What a caller may do around the steps; this one does nothing."""

  def step_begins(self, step: int) -> None:
    """Before step `step`, counted from 1."""

  def step_ended(self, step: int, metrics: dict[str, jax.Array], evaluation: evaluate.Evaluation | None) -> bool:
    """After it, its metrics still on the devices, with the validation if there was one. Whether to end the training."""
    return False


_LIMITS = (
  (
    (
      "model.base_features",
      "train.batch_size",
      "train.log_every_steps",
      "evaluation.batch_size",
      "evaluation.num_samples",
    ),
    lambda v: v >= 1,
    "at least 1",
  ),
  (("train.num_steps", "train.eval_every_steps", "train.checkpoint_every_steps"), lambda v: v >= 0, "at least 0"),
  (("optimizer.learning_rate",), lambda v: v > 0, "above 0"),
  (("optimizer.beta1", "optimizer.beta2"), lambda v: 0 <= v < 1, "in [0, 1)"),
  (("optimizer.decay_fraction",), lambda v: 0 <= v <= 1, "in [0, 1]"),
)


def resolve(config: ml_collections.ConfigDict, source: pipeline.Source) -> ml_collections.ConfigDict:
  """A copy of the config with everything filled in that it leaves to the data: channels, levels, L1 weight, steps."""
  config = config.copy_and_resolve_references()
  for fields, holds, limit in _LIMITS:
    for field in fields:
      section, name = field.split(".")
      if not holds(config[section][name]):
        raise UsageError(f"{field} is {config[section][name]}; it has to be {limit}.")
  if "train" not in source.counts:
    raise UsageError(f"data.source_dir {config.data.source_dir!r} has no train split, only {', '.join(source.counts)}.")
  count = source.counts["train"]
  data, model, train = config.data, config.model, config.train
  for side in ("input", "target"):
    dtype = source.kinds[side][0].name
    if data[f"{side}_dtype"] not in ("", dtype):
      raise UsageError(
        f"data.{side}_dtype is {data[f'{side}_dtype']!r}, but the data is {dtype}; leave it empty to take what the data is."
      )
    data[f"{side}_dtype"] = dtype
  has_holes = data.target_dtype == "float32"
  if data.validity_channel and not has_holes:
    raise UsageError(
      f"data.validity_channel is for targets with holes (depth), but the target is a {data.target_dtype} picture."
    )
  target_channels = source.kinds["target"][1]
  for field, channels in (
    ("input_channels", source.kinds["input"][1]),
    ("output_channels", target_channels + data.validity_channel),
  ):
    if model[field] not in (0, channels):
      raise UsageError(
        f"model.{field} is {model[field]}, but the data has {channels}; leave it 0 to take what the data has."
      )
    model[field] = channels
  if model.residual and (data.input_dtype, data.target_dtype, model.input_channels, target_channels) != (
    "float32",
    "float32",
    1,
    1,
  ):
    raise UsageError(
      f"model.residual is for depth → depth, one channel each, but the input is {data.input_dtype} with "
      f"{model.input_channels} channel(s) and the target {data.target_dtype} with {target_channels}."
    )
  model.levels = model.levels or models.levels_for(*datasets.crop_shape(data))
  for field, (height, width) in (("crop", datasets.crop_shape(data)), ("eval", datasets.eval_shape(data))):
    if height % 2**model.levels or width % 2**model.levels:
      raise UsageError(
        f"data.{field}_size gives pictures of {height}×{width} (height × width), but a generator of {model.levels} levels takes "
        f"multiples of {2**model.levels}. Change data.{field}_size (and data.{field}_width), or model.levels."
      )
  if config.loss.l1_weight < 0:
    config.loss.l1_weight = 300.0 / target_channels
  train.num_steps = train.num_steps or train.num_epochs * count // train.batch_size
  if train.num_steps < 1:
    raise UsageError(
      f"{train.num_epochs} epochs of {count} pairs are not one batch of train.batch_size={train.batch_size}. "
      "Train for more epochs or steps, or with smaller batches."
    )
  epoch = max(1, count // train.batch_size)
  train.eval_every_steps = train.eval_every_steps or epoch
  train.checkpoint_every_steps = train.checkpoint_every_steps or epoch
  return config


def _make_writer(workdir: Path) -> metric_writers.MetricWriter:
  """TensorBoard event files, written in the background, by process 0 only."""
  if jax.process_index() > 0:
    return metric_writers.MultiWriter([])
  return metric_writers.AsyncWriter(metric_writers.SummaryWriter(str(workdir)))


def _describe(config, state, start, train_split, val_split, mesh) -> str:
  """What is about to be trained on what; on a fresh start with every parameter."""
  counts = {
    name: parameter_overview.count_parameters(network.params)
    for name, network in (("generator", state.generator), ("discriminator", state.discriminator))
  }
  lines = []
  if start:
    lines.append(f"Going on from the checkpoint of step {start}.")
  else:
    for network in (state.generator, state.discriminator):
      lines.append(parameter_overview.get_parameter_overview(network.params, include_stats=False))
  height, width = datasets.crop_shape(config.data)
  lines.append(
    f"{config.model.generator} with {counts['generator']:,} and PatchGAN {config.model.patch} with {counts['discriminator']:,} parameters; "
    f"{len(train_split)} training and {len(val_split or ())} validation pairs of {height}×{width}; "
    f"{config.train.num_steps} steps of {config.train.batch_size} on {mesh.size} {jax.devices()[0].platform} device(s)."
  )
  return "\n".join(lines)


class _StopOnSignal:
  """Turns the first Ctrl-C or SIGTERM into a wish to stop after the running step; a second Ctrl-C stops at once."""

  def __enter__(self):
    self.asked = self.by_signal = False
    self._old = {}
    try:
      for number in (signal.SIGINT, signal.SIGTERM):
        self._old[number] = signal.signal(number, self._handle)
    except ValueError:  # not in the main thread: the notebook or server around us keeps its own handlers
      pass
    return self

  def _handle(self, number, frame):
    if self.asked and number == signal.SIGINT:
      raise KeyboardInterrupt
    self.asked = self.by_signal = True

  def __exit__(self, *unused):
    for number, handler in self._old.items():
      signal.signal(number, handler)
