"""Makes a workdir of one of the replicas that a run has trained side by side (`train.num_replicas`).

    python -m pix2pix_jax.extract --workdir=DIR --replica=K --output=DIR

The new workdir is that of a run of a single network with the replica's seed: config.json, the replica's part of all
checkpoints, its history and curves. All commands accept it, and `train` resumes it.
"""

from pathlib import Path
import shutil

from pix2pix_jax import config as config_lib
from pix2pix_jax.errors import CommandParser, UsageError, require_integer, run_command, user_path
from pix2pix_jax.output import say


def extract(workdir: str | Path, replica: int, output: str | Path) -> Path:
  """Makes a workdir of a replica and returns its path.

  Args:
    workdir: folder of a run with replicas, finished or not.
    replica: its number, from 0.
    output: the new folder; it may exist if it is empty.

  Raises:
    UsageError: a run of one network, no such replica, no intact checkpoint, or a folder that is in use.
  """
  workdir, output = user_path("--workdir", workdir), user_path("--output", output)
  config = config_lib.read(workdir)
  count = config.train.num_replicas
  if count == 1:
    raise UsageError(f"{workdir} holds a single network (train.num_replicas is 1); use it as it is.")
  require_integer("--replica", replica, 0, count - 1)
  if output.exists() and (not output.is_dir() or any(output.iterdir())):
    raise UsageError(f"--output {output} already exists. Choose a new folder.")
  from pix2pix_jax.run import history, replicas, storage, viz  # imports Orbax, which is slow

  own = replicas.config_of(config, replica)
  part = output.with_name(f".{output.name}.part")  # renamed when it is complete
  shutil.rmtree(part, ignore_errors=True)
  config_lib.make_workdir(part)
  try:
    with storage.explained(part):
      steps = _copy_checkpoints(workdir, part, replica)
      rows = [replicas.scalars_of(row, replica) for row in history.read(workdir)]
      log = history.History(part, 0)
      for row in rows:
        log.append(int(row["step"]), {name: value for name, value in row.items() if name != "step"})
      changes = workdir / "config_history.jsonl"
      if changes.exists():
        shutil.copy(changes, part)
      if rows:
        unit = config_lib.signals_of(own)[1].unit
        viz.curves(rows, part / "curves.png", changes=config_lib.read_changes(part), unit=unit)
      config_lib.write(part, own)
      if output.exists():
        output.rmdir()
      part.rename(output)
  finally:
    shutil.rmtree(part, ignore_errors=True)
  listed = ", ".join(map(str, steps))
  say(f"{output} is the run of replica {replica}, with seed {own.seed}: checkpoint{'s' * (len(steps) > 1)} {listed}.")
  return output


def _copy_checkpoints(workdir: Path, target: Path, replica: int) -> list[int]:
  """Copies the replica's part of all intact checkpoints, with its validations; returns their steps."""
  from pix2pix_jax.run import replicas
  from pix2pix_jax.run.checkpoint import Checkpointer, DamagedCheckpoint
  from pix2pix_jax.run.experiment import Experiment

  run = Experiment.read(workdir)
  like, own = run.abstract(), replicas.config_of(run.config, replica)
  damaged: list[DamagedCheckpoint] = []
  with (
    Checkpointer(workdir, config=run.config, read_only=True) as source,
    Checkpointer(target, config=own, keep_all=True) as checkpointer,
  ):
    source.resolve_step("latest")  # an error if there is none
    for step in source.all_steps():
      try:
        state = source.restore(step, source.as_stored(step, like))
      except DamagedCheckpoint as error:
        damaged.append(error)
        continue
      means = source.validation(step)
      checkpointer.save(step, replicas.state_of(state, replica), means and replicas.scalars_of(means, replica))
    if not checkpointer.all_steps():
      raise damaged[0]
    for fault in damaged:
      say(f"Warning: {fault} It is left out.")
    return checkpointer.all_steps()


def main(argv: list[str] | None = None) -> None:
  parser = CommandParser(prog="pix2pix_jax extract", description=__doc__.split("\n")[0])
  parser.add_argument("--workdir", type=Path, required=True, help="workdir of a run with train.num_replicas above 1")
  parser.add_argument(
    "--replica", type=int, required=True, help="index of the replica, from 0; its seed is the run's seed plus this"
  )
  parser.add_argument("--output", type=Path, required=True, help="a new folder")
  options = parser.parse_args(argv)
  extract(options.workdir, options.replica, options.output)


if __name__ == "__main__":
  run_command(main)
