"""Files of a workdir that a disk, a copy or a person damaged: what is intact is used, and a line says so."""

import collections
import json
import shutil

from faults import MUTATIONS, config, copy, damage, largest_file, steps, trials
import jax
import numpy as np
import pytest
from tiny_runs import assert_same_bits, saved_arrays

from pix2pix_jax import config as config_lib
from pix2pix_jax import evaluate, export
from pix2pix_jax.errors import UsageError
from pix2pix_jax.inference import Translator
from pix2pix_jax.run import history
from pix2pix_jax.run.checkpoint import Checkpointer
from pix2pix_jax.run.experiment import Experiment
from pix2pix_jax.train import train_and_evaluate


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("trained") / "run"
  train_and_evaluate(config(), workdir)
  assert steps(workdir) == [4, 6]
  return workdir


@pytest.fixture
def workdir(trained, tmp_path):
  return copy(trained, tmp_path / "run")


def arrays(tree):
  return sorted((np.shape(leaf), np.asarray(leaf).tobytes()) for leaf in jax.tree.leaves(tree))


def test_no_damage_to_any_file_is_restored_or_shows_a_traceback(trained, tmp_path, capfd):
  """Whatever happens to one file of the newest checkpoint: the bits of a checkpoint, and a line if it is the older."""
  run = Experiment.read(trained)
  like = run.abstract()
  with Checkpointer(trained, read_only=True) as checkpointer:
    intact = {step: checkpointer.restore(step, like) for step in (4, 6)}
  used, kinds = [], collections.Counter()
  for rng in trials(8):
    kind = rng.choice(MUTATIONS)
    workdir = copy(trained, tmp_path / "run")
    path = rng.choice(sorted(path for path in (workdir / "checkpoints/6").rglob("*") if path.is_file()))
    damage(path, kind, rng)
    what = f"{kind} {path.relative_to(workdir)}"
    capfd.readouterr()
    with Checkpointer(workdir, config=run.config, read_only=True) as checkpointer:
      step, variables = checkpointer.load_variables("latest", like)
    assert arrays(variables) == arrays(intact[step].variables), what
    with Checkpointer(workdir, config=run.config) as checkpointer:
      resumed, state = checkpointer.restore_newest(like)
    assert arrays(state) == arrays(intact[resumed]), what
    shown = capfd.readouterr()
    assert shown.err == "", what
    assert ("Using the checkpoint of step 4 instead" in shown.out) == (step == 4), what
    assert ("the run resumes from step 4" in shown.out) == (resumed == 4), what
    assert steps(workdir) == ([4] if resumed == 4 else [4, 6]), what
    assert (workdir / "damaged/6").is_dir() == (resumed == 4), what
    used.append(resumed)
    kinds[f"{kind}: step {resumed}"] += 1
  print(dict(kinds))
  assert set(used) == {4, 6}, "the seeds are to cover files that matter and files that do not"


def test_a_flipped_bit_falls_back_and_the_run_ends_in_the_same_bits(trained, workdir, capsys, tmp_path):
  path = largest_file(workdir / "checkpoints/6/default/d")
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)
  assert Translator.load(workdir).step == 4
  evaluate.evaluate(workdir)
  export.export(workdir, tmp_path / "model.stablehlo")
  out = capsys.readouterr().out
  assert out.count("is damaged") == out.count("Using the checkpoint of step 4 instead.") == 3
  assert "step 4 (best ssim" in out and "of step 4, " in out and "step 6 " not in out
  with pytest.raises(UsageError, match="checkpoints/6 is damaged .*Other checkpoints of this workdir: 4"):
    Translator.load(workdir, 6)
  train_and_evaluate(config(), workdir)
  assert f"It moves to {workdir / 'damaged'}; the run resumes from step 4." in capsys.readouterr().out
  assert_same_bits(saved_arrays(trained, 6), saved_arrays(workdir, 6))
  assert path.name in [each.name for each in (workdir / "damaged/6").rglob("*")], "nothing is deleted"


def test_a_renamed_checkpoint_is_refused(workdir):
  (workdir / "checkpoints/6").rename(workdir / "checkpoints/9")
  with pytest.raises(UsageError, match="checkpoints/9 holds step 6. Rename the folder to 6"):
    train_and_evaluate(config(train__num_steps=12), workdir)
  with pytest.raises(UsageError, match="checkpoints/9 holds step 6"):
    Translator.load(workdir, "latest")
  assert steps(workdir) == [4, 9]
  for step in (4, 9):
    (workdir / f"checkpoints/{step}").rename(workdir / f"checkpoints/best_{step}")
  with pytest.raises(UsageError, match="holds best_[49], best_[49], but .* Rename it back"):
    Translator.load(workdir)


def test_a_changed_validation_does_not_choose_the_best(workdir, capsys):
  path = workdir / "checkpoints/6/metrics/metrics"
  stored = json.loads(path.read_text())
  path.write_text(json.dumps(stored | {"l1": stored["l1"] / 2}))
  fields = config_lib.read(workdir)
  with Checkpointer(workdir, config=fields, read_only=True) as checkpointer:
    assert checkpointer.best() is None
  with Checkpointer(workdir, config=fields) as checkpointer:
    assert checkpointer.best() is None
  assert "the validation of checkpoint" in capsys.readouterr().out and (workdir / "damaged/6_metrics").is_dir()
  with Checkpointer(workdir, config=fields) as checkpointer:
    assert checkpointer.best() is None
  assert capsys.readouterr().out == "", "once is enough"


BROKEN_JSON = {
  "list": b"[1]",
  "number": b"3",
  "empty": b"",
  "not_utf8": b"\xff\xfe{}",
  "zeros": b"\0" * 100,
  "deep": b'{"data":' * 100_000,
}


@pytest.mark.parametrize("name", BROKEN_JSON)
def test_a_broken_config_is_named(trained, tmp_path, name):
  (tmp_path / "config.json").write_bytes(BROKEN_JSON[name])
  with pytest.raises(UsageError, match=r"config\.json (cannot be read|is not a configuration)"):
    config_lib.read(tmp_path)


STRANGE = [None, True, -1, 40, 10**9, 10**30, -0.5, 1e400, float("nan"), "x", "", [], [1], ["a"], [[1]], {}, "\ud800"]


def test_strange_values_in_a_config_are_accepted_or_named(trained, tmp_path):
  fields = json.loads((trained / "config.json").read_text())
  refused = set()
  for name, _ in config_lib.each_field():
    section, _, field = name.rpartition(".")
    for value in STRANGE:
      changed = fields | ({section: fields[section] | {field: value}} if section else {field: value})
      (tmp_path / "config.json").write_text(json.dumps(changed))
      try:
        config_lib.read(tmp_path)
      except UsageError as error:
        assert "config.json" in str(error)
        refused.add(name)
  assert refused == {name for name, _ in config_lib.each_field()}


@pytest.mark.parametrize("name, value", [("levels", 4), ("levels", 12), ("base_features", 3), ("norm", "none")])
def test_a_config_of_another_network_is_refused(workdir, name, value):
  fields = json.loads((workdir / "config.json").read_text())
  fields["model"][name] = value
  (workdir / "config.json").write_text(json.dumps(fields))
  with pytest.raises(UsageError, match="belongs to other networks than the configuration describes"):
    Translator.load(workdir)
  with pytest.raises(UsageError, match="belongs to other networks"):
    export.export(workdir, workdir / "model.stablehlo")
  assert steps(workdir) == [4, 6]


def test_a_damaged_history_costs_its_damaged_lines(tmp_path, capsys):
  whole = [{"step": 1, "val/l1": 0.5}, {"step": 2, "val/l1": 0.4}]
  damaged = [
    *(b"\xff\xfe", b"3", b'"s"', b"[" * 100_000, b'{"val/l1": 3}', b'{"step": "x"}', b'{"step": 1, "val/l1": "x"}'),
    *(b'{"step": true}', b'{"step": 1, "val/l1": [1]}'),
  ]
  path = tmp_path / "history.jsonl"
  lines = [json.dumps(row).encode() for row in whole]
  path.write_bytes(b"\n".join([lines[0], *damaged, lines[1], b'{"step": 3, "val']))
  before = path.read_bytes()
  assert history.read(tmp_path) == whole
  history.History(tmp_path, 2).append(3, {"val/l1": 0.3})
  assert history.read(tmp_path) == [*whole, {"step": 3, "val/l1": 0.3}]
  assert "has 9 damaged lines" in capsys.readouterr().out
  assert (tmp_path / "history.jsonl.damaged").read_bytes() == before
  with path.open("a") as file:
    file.write('{"step": 4, "val/l1')  # a crash
  history.History(tmp_path, 3)
  assert capsys.readouterr().out == ""


def test_a_run_resumes_with_a_damaged_history_and_a_lost_evaluation(trained, workdir):
  (workdir / "history.jsonl").write_bytes(b"\xff\n7\n" + (workdir / "history.jsonl").read_bytes())
  shutil.rmtree(workdir / "eval")
  train_and_evaluate(config(), workdir)
  assert [row for row in history.read(workdir) if "val/l1" in row] == [
    row for row in history.read(trained) if "val/l1" in row
  ]
  assert json.loads((workdir / "eval/val/metrics.json").read_text())["step"] == 6
