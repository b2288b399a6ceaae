"""The command line: dispatch, help, and the flags of `train`."""

import ast
import importlib
import os
from pathlib import Path
import platform
import re
import shlex
import subprocess
import sys

from absl import flags
import pytest

from pix2pix_jax import cli, launch
from pix2pix_jax import config as config_lib
from pix2pix_jax.errors import CommandParser, UsageError, user_path

ROOT = Path(__file__).parent.parent
TRAIN = ["--config=procedural", "--workdir=w"]


def run(*command, **settings):
  return subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, timeout=120, **settings)


def environment(**variables):
  """A small environment in which the package of this tree is found."""
  return {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "PYTHONUTF8": "1", "GLIBC_TUNABLES": ""} | variables


@pytest.mark.parametrize(
  "arguments, name, value",
  [
    (["--config.data.load_size=143"], "data.load_size", 143),
    (["--config.data.load_size", "143"], "data.load_size", 143),
    (["--config.seed=7"], "seed", 7),
    (["--config.model.dropout_blocks=(1,2,3)"], "model.dropout_blocks", (1, 2, 3)),
    (["--config.model.dropout_blocks=(1, 2)"], "model.dropout_blocks", (1, 2)),
    (["--config.model.dropout_blocks=()"], "model.dropout_blocks", ()),
    (["--config.model.dropout_blocks=0", "--config.model.dropout_blocks=2"], "model.dropout_blocks", (0, 2)),
    (["--config.data.depth_range=(0, 10)"], "data.depth_range", (0, 10)),
    (["--config.data.summer_attributes=('hot','dry')"], "data.summer_attributes", ("hot", "dry")),
    (["--config.data.mirror=False"], "data.mirror", False),
    (["--config.data.mirror=true"], "data.mirror", True),
    (["--noconfig.data.mirror"], "data.mirror", False),
    (["--config.model.residual"], "model.residual", True),
    (["--config.optimizer.learning_rate=1e-3"], "optimizer.learning_rate", 0.001),
    (["--config.loss.l1_weight", "-1.5"], "loss.l1_weight", -1.5),
    (["--config.data.source_dir=my pairs/=1"], "data.source_dir", "my pairs/=1"),
    (["--config.train.num_steps=5", "--config.train.num_steps=6"], "train.num_steps", 6),
  ],
)
@pytest.mark.parametrize("first", [True, False])
def test_overrides(arguments, name, value, first):
  config, workdir, together, verbose, debug = cli.parse_train([*arguments, *TRAIN] if first else [*TRAIN, *arguments])
  expected = config_lib.load("procedural")
  section, _, field = name.rpartition(".")
  (expected[section] if section else expected)[field] = value
  assert config.to_dict() == expected.to_dict()
  assert (workdir, together, verbose, debug) == (Path("w"), None, False, False)
  assert config.is_locked


def test_flags_may_follow_as_separate_arguments_and_variants_apply():
  config, workdir, together, verbose, debug = cli.parse_train(
    ["--distributed", "--verbose", "--config", "kitti:report,procedural", "--workdir", "runs/a b"]
  )
  assert (config.model.decoder_widths, config.data.name, config.data.task) == ("report", "procedural", "kitti_depth")
  assert (workdir, together, verbose, debug) == (Path("runs/a b"), cli.Together(), True, False)


@pytest.mark.parametrize(
  "arguments, message",
  [
    ([], r"--config is missing.*ct, facades, folder, kitti, nyu, procedural, winter_summer"),
    (["--config=kitti"], r"--workdir is missing.*facades, folder, kitti"),
    (["--config=kiti", "--workdir=w"], r"no file 'kiti'.*did you mean kitti\?"),
    (["--config=kitti", "--workdir=w", "--batch_size=4"], "--batch_size; did you mean --config.train.batch_size?"),
    (["--config=kitti:raport", "--workdir=w"], "no variant 'raport'; it has completion, best, report, procedural"),
    (["--config"], r"--config: expected one argument"),
    (["--wrokdir=w", "--config=kitti"], r"no flag --wrokdir; did you mean --workdir\?"),
    ([*TRAIN, "--config.data.load_sise=143"], r"no field data.load_sise; did you mean data.load_size\?"),
    ([*TRAIN, "--config.trian.batch_size=2"], r"no field trian.batch_size; did you mean train.batch_size\?"),
    ([*TRAIN, "--config.batch_size=2"], r"no field batch_size; did you mean train.batch_size\?"),
    ([*TRAIN, "--noconfig.data.miror"], r"no field data.miror; did you mean data.mirror\?"),
    ([*TRAIN, "--config.train.batch_size=many"], "train.batch_size is 'many'; it has to be an integer"),
    ([*TRAIN, "--config.train.batch_size=2.5"], "train.batch_size is '2.5'; it has to be an integer"),
    ([*TRAIN, "--config.seed=x"], "seed is 'x'; it has to be an integer"),
    ([*TRAIN, "--config.optimizer.beta1=half"], "optimizer.beta1 is 'half'; it has to be a number"),
    ([*TRAIN, "--config.data.mirror=maybe"], "data.mirror is 'maybe'; it has to be True or False"),
    ([*TRAIN, "--config.model.dropout_blocks=(1,x)"], "model.dropout_blocks is .*a tuple of integers"),
    ([*TRAIN, "--config.model.dropout_blocks=(1, 2"], "model.dropout_blocks is .*a tuple of integers"),
    ([*TRAIN, "--config.model.dropout_blocks=(1,0.5)"], "model.dropout_blocks is .*a tuple of integers"),
    ([*TRAIN, "--config.train.batch_size=0"], "train.batch_size is 0; it has to be between 1 and"),
    ([*TRAIN, "--config.loss.gan=wgan"], "loss.gan is 'wgan'"),
    (
      [*TRAIN, "--config.data.target_kind=deph"],
      r"'deph'; did you mean depth\? It has to be one of 'auto', 'image'",
    ),
    ([*TRAIN, "--config.data.inputs=('x', 'y:deph')"], r"'deph'; did you mean depth\? The kinds are image, depth, q"),
    ([*TRAIN, "--config.seed"], "Missing value for flag --config.seed"),
    ([*TRAIN, "facades"], "Unexpected argument 'facades'"),
  ],
)
def test_wrong_flags_name_the_thing_its_value_and_the_remedy(arguments, message):
  with pytest.raises(UsageError, match=message) as caught:
    cli.parse_train(arguments)
  text = str(caught.value)
  assert len(text.splitlines()) == 1 and "\\" not in text and "Traceback" not in text


def test_a_configuration_file_of_ones_own(tmp_path):
  path = tmp_path / "my experiment.py"
  path.write_text(
    "from pix2pix_jax.configs import kitti\n\n\ndef get_config(variant=''):\n  config = kitti.get_config(variant)\n"
    "  config.train.num_epochs = 3\n  return config\n",
  )
  config, *_ = cli.parse_train([f"--config={path}:procedural", "--workdir=w", "--config.train.batch_size=2"])
  assert (config.train.num_epochs, config.data.task, config.train.batch_size) == (3, "kitti_depth", 2)


@pytest.mark.parametrize(
  "source, message",
  [
    ("def get_config(variant=''):\n  return nothing\n", "line 2: NameError: name 'nothing' is not defined"),
    ("\n\ndef get_config(:\n", "line 3: SyntaxError"),
    ("import json\n\njson.loads('{')\n", "line 3: JSONDecodeError"),
    ("settings = 3\n", r"defines no get_config"),
    (
      "def get_config():\n  return {'seed': 3}\n",
      "mine.py: get_config has to return a configuration with every section",
    ),
    (
      "import ml_collections\n\ndef get_config():\n  return ml_collections.ConfigDict({'seed': 3})\n",
      "mine.py: get_config has to return a configuration with every section",
    ),
    (
      "from pix2pix_jax.configs import kitti\n\ndef get_config():\n  c = kitti.get_config()\n"
      "  c.train.num_epoch = 3\n  return c\n",
      r"no field train.num_epoch; did you mean train.num_epochs\?",
    ),
  ],
)
def test_errors_in_a_configuration_file_name_its_line(tmp_path, source, message):
  path = tmp_path / "mine.py"
  path.write_text(source)
  with pytest.raises(UsageError, match=message):
    cli.parse_train([f"--config={path}", "--workdir=w"])


def test_parsing_leaves_global_flags_and_arguments_alone(monkeypatch):
  monkeypatch.setattr(sys, "argv", ["pytest", "--config.seed=5", "--config=elsewhere"])
  before = set(flags.FLAGS)
  assert cli.parse_train([*TRAIN, "--config.seed=1"])[0].seed == 1
  assert cli.parse_train([*TRAIN, "--config.seed=2"])[0].seed == 2
  assert set(flags.FLAGS) == before


@pytest.mark.parametrize("program", [["-m", "pix2pix_jax", "train"], [str(ROOT / "main.py")]])
def test_a_wrong_flag_ends_both_programs_with_one_paragraph_and_status_2(program, tmp_path):
  done = run(
    sys.executable, *program, *TRAIN, "--config.train.batchsize=2", cwd=tmp_path, env=environment(HOME=str(tmp_path))
  )
  assert (done.returncode, done.stdout) == (2, "")
  (line,) = done.stderr.splitlines()
  assert line.startswith("error: There is no field train.batchsize; did you mean train.batch_size?")
  assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
  "arguments, message",
  [
    (["--config.data.crop_size=50"], "50×50 .* cannot be halved twice"),
    (["--config.data.crop_size=72", "--config.model.levels=6"], "72×72 .* 6 levels needs multiples of 64"),
    (["--config.data.crop_size=128"], r"128×128 \(width × height\) do not fit into images of 72×72"),
    (
      ["--config.data.crop_size=128", "--config.data.crop_width=64"],
      r"64×128 \(width × height\) do not fit into images of 72×72",
    ),
    (["--config.data.crop_size=6", "--config.data.crop_width=64"], r"64×6 \(width × height\) cannot be halved twice"),
    (["--config=folder"], "data.source_dir is not set. Add --config.data.source_dir=DIR. .*Your own pairs.* of README"),
    (
      ["--config=folder", "--config.data.source_dir=FILE"],
      "'FILE' does not exist; did you mean file. .*Your own pairs",
    ),
    (["--config=nyu"], "data.source_dir is not set. .* DIR holds nyu_depth_v2_labeled.mat .*Choose a conf.* of README"),
    (["--config=kitti", "--config.data.source_dir=no/such"], "'no/such' does not exist. DIR holds either val_sel"),
    (["--config=facades", "--config.data.source_dir=no/such"], "'no/such' does not exist. .*README"),
    (["--workdir={file}/w"], "--workdir .*file/w cannot be created as a folder: .*file is a file"),
    (["--workdir={file}"], "--workdir .*file cannot be created as a folder: .*file is a file"),
  ],
)
def test_what_needs_no_data_is_checked_before_tensorflow_loads(arguments, message, tmp_path, monkeypatch, capsys):
  (tmp_path / "file").touch()
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UsageError, match=message):
    cli.train([*TRAIN, *(argument.format(file=tmp_path / "file") for argument in arguments)])
  assert capsys.readouterr().out == "" and [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", config_lib.names())
def test_the_early_checks_accept_every_configuration(name, tmp_path):
  documentation = importlib.import_module(f"pix2pix_jax.configs.{name}").__doc__
  for variant in ["", *cli.documented_variants(documentation)]:
    config = config_lib.load(f"{name}:{variant}" if variant else name)
    config.data.source_dir = str(tmp_path)
    cli.check_before_imports(config)


def test_processes_that_cannot_be_connected_are_one_paragraph(tmp_path):
  done = run(sys.executable, "-m", "pix2pix_jax", "train", *TRAIN, "--distributed", cwd=tmp_path, env=environment())
  assert done.returncode == 2 and "Traceback" not in done.stderr
  assert done.stderr.startswith("error: --distributed: the processes cannot be connected (")


@pytest.mark.parametrize(
  "arguments, message",
  [
    (["translate", "--workdr=x"], "There is no flag --workdr; did you mean --workdir? "),
    (["evaluate", "--workdir=x", "--spilt", "test"], "There is no flag --spilt; did you mean --split? "),
    (["inspect", "--config=folder", "--outptu=x"], "There is no flag --outptu; did you mean --output? "),
    (["import-torch", "--colour"], "There is no flag --colour. "),
    (["extract", "--workdir=x", "--output=y"], "The following arguments are required: --replica. "),
    (["export", "--workdir=x"], "The following arguments are required: --output. "),
    (["translate", "--workdir=x", "--input=y", "--output=z", "--samples=two"], "--samples: invalid int value: 'two'. "),
    (["evaluate", "--workdir=x", "--dropout=maybe"], "--dropout: invalid choice: 'maybe' (choose from "),
    (["evaluate", "--workdir=x", "--split"], "--split: expected one argument. "),
    (["report", "--workdir=x", "more"], "Unrecognized arguments: more. "),
    (["fields", "--all"], "There is no flag --all. "),
  ],
)
def test_wrong_flags_of_every_command_are_one_line_with_the_problem(arguments, message, capsys):
  with pytest.raises(SystemExit, match="2"):
    cli.main(arguments)
  said = capsys.readouterr().err
  assert said.startswith(f"error: {message}") and said.count("\n") == 1
  assert said.endswith(f'"pix2pix_jax {arguments[0]} --help" describes all flags.\n')


def test_flags_may_be_shortened_and_their_values_begin_with_hyphens():
  parser = CommandParser(prog="x")
  parser.add_argument("--overwrite", action="store_true")
  parser.add_argument("--seed", type=int)
  parser.add_argument("files", nargs="*")
  options = parser.parse_args(["--over", "--seed", "-1", "--", "--name"])
  assert (options.overwrite, options.seed, options.files) == (True, -1, ["--name"])


def test_an_unknown_command_suggests_the_nearest(capsys):
  with pytest.raises(SystemExit, match="2"):
    cli.main(["evalute"])
  assert "There is no command 'evalute'; did you mean evaluate?" in capsys.readouterr().err
  with pytest.raises(SystemExit, match="2"):
    cli.main([])
  assert "Name a command: train, evaluate" in capsys.readouterr().err


def test_help_lists_every_command(capsys):
  cli.main(["--help"])
  output = capsys.readouterr().out
  for command, line in cli.COMMANDS.items():
    assert f"  {command} " in output and line in output
  for command in cli.COMMANDS:
    assert callable(cli._find(command))


@pytest.mark.parametrize("command", [[], *([name] for name in cli.COMMANDS)], ids=" ".join)
def test_help_is_fast_and_imports_no_tensorflow(command, tmp_path):
  (tmp_path / "tensorflow").mkdir()
  (tmp_path / "tensorflow/__init__.py").write_text("raise SystemExit('TensorFlow was imported')")
  before = os.times()
  paths = os.pathsep.join([str(tmp_path), str(ROOT)])
  done = run(sys.executable, "-m", "pix2pix_jax", *command, "--help", env=environment(PYTHONPATH=paths))
  after = os.times()
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith("usage: ") and "--" in done.stdout
  seconds = after.children_user + after.children_system - before.children_user - before.children_system
  assert seconds < 3, f"{seconds:.1f} s of CPU time"


def test_train_help_lists_configurations_flags_and_where_fields_are_explained(capsys):
  cli.main(["train", "--help"])
  output = capsys.readouterr().out
  for text in ("--config", "--workdir", "--config.FIELD=VALUE", "--distributed", "pix2pix_jax fields", "example:"):
    assert text in output
  assert config_lib.names() == sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
  for name in config_lib.names():
    (line,) = [line for line in output.splitlines() if line.startswith(f"  {name} ")]
    assert len(line.split(maxsplit=1)[1]) > 20
  assert max(map(len, output.splitlines())) <= 120


@pytest.mark.parametrize("name", config_lib.names())
def test_the_documented_variants_are_those_that_exist(name):
  documented = cli.documented_variants(importlib.import_module(f"pix2pix_jax.configs.{name}").__doc__)
  for variant in documented:
    config_lib.check(config_lib.load(f"{name}:{variant}"))
  with pytest.raises(UsageError, match=f"it has {', '.join(documented) or 'none'}\\."):
    config_lib.load(f"{name}:no_such")


def commands_in(documentation: str) -> list[list[str]]:
  """The arguments of every training command in a docstring: indented lines, continued by a backslash."""
  joined = documentation.replace("\\\n", " ")
  indented = re.findall(r"^ {4}python main\.py (.*)$", joined, re.MULTILINE)
  installed = re.findall(r"^With the installed package: pix2pix_jax train ((?:.+\n)+)", joined, re.MULTILINE)
  return [shlex.split(command) for command in indented + installed]


@pytest.mark.parametrize("name", config_lib.names())
def test_the_documented_commands_are_accepted(name, monkeypatch):
  monkeypatch.chdir(ROOT)
  commands = commands_in(importlib.import_module(f"pix2pix_jax.configs.{name}").__doc__)
  assert len(commands) >= 2
  for command in commands:
    config, workdir, *_ = cli.parse_train(command)
    assert workdir.parts[0] == "runs"
    assert (config.data.source_dir == "DIR") == ("--config.data.source_dir=DIR" in command)


@pytest.mark.parametrize("name", config_lib.names())
def test_the_files_to_copy_are_the_named_configurations(name):
  path = ROOT / f"configs/{name}.py"
  assert config_lib.load(str(path)).to_dict() == config_lib.load(name).to_dict()
  copied, named = (ast.get_docstring(ast.parse(file.read_text("utf-8"))) for file in (path, config_lib.locate(name)[0]))
  assert copied.splitlines()[0] == named.splitlines()[0]


def test_fields_lists_each_with_default_meaning_and_limit(capsys):
  cli.main(["fields"])
  output = " ".join(capsys.readouterr().out.split())
  for name, field in config_lib.each_field():
    assert f"{name} = {field.default!r}" in output
    assert " ".join(field.meaning.split()) in output
  assert "train.batch_size = 1 (between 1 and 1,000,000) Images per step" in output


def test_fields_can_be_narrowed(capsys):
  cli.main(["fields", "num_e"])
  assert [line.split()[0] for line in capsys.readouterr().out.splitlines() if " = " in line] == ["train.num_epochs"]
  with pytest.raises(SystemExit, match="2"):
    cli.main(["fields", "train.num_epoks"])
  assert "did you mean train.num_epochs?" in capsys.readouterr().err


def test_only_programs_that_compute_restart_and_never_inside_a_callers_program(monkeypatch):
  kept = []
  monkeypatch.setattr(launch, "keep_memory", lambda: kept.append("kept"))
  monkeypatch.setattr(cli, "_find", lambda name: lambda rest: kept.append(name))
  for command in (["train"], ["translate", "-h"], ["report"], ["translate"]):
    monkeypatch.setattr(sys, "argv", ["pix2pix_jax", *command])
    cli.main()
  assert kept == ["kept", "train", "translate", "report", "kept", "translate"]
  kept.clear()
  cli.main(["train"])
  assert kept == ["train"]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc can keep memory")
@pytest.mark.parametrize("start", ["script", "module", "main.py"])
def test_train_restarts_once_with_kept_memory_whatever_the_paths(start, tmp_path):
  folder = tmp_path / "a folder"
  folder.mkdir()
  config = folder / "my config.py"
  config.write_text(
    "import os, sys\nprint('read', os.environ.get('GLIBC_TUNABLES'), sys.flags.utf8_mode)\nraise OSError('stop here')\n"
  )
  script = folder / "pix2pix_jax"
  script.write_text("import sys\nfrom pix2pix_jax.cli import main\n\nif __name__ == '__main__':\n  sys.exit(main())\n")
  programs = {"script": [script, "train"], "module": ["-m", "pix2pix_jax", "train"], "main.py": [ROOT / "main.py"]}
  variables = environment()
  del variables["GLIBC_TUNABLES"], variables["PYTHONUTF8"]
  done = run(
    sys.executable, "-X", "utf8", *programs[start], f"--config={config}", "--workdir", folder, cwd=folder, env=variables
  )
  assert done.stdout == f"read {launch.KEEP_MEMORY} 1\n", done.stderr
  assert done.stderr == f"error: --config={config}: {config}, line 3: OSError: stop here\n"


@pytest.mark.parametrize(
  "arguments",
  [
    ["train", "--config=procedural", "--workdir=gs://bucket/run"],
    ["train", "--config=procedural", "--workdir=w", "--init_from=gs://bucket/run"],
    ["inspect", "--config=procedural", "--output=gs://bucket/run"],
    ["evaluate", "--workdir=gs://bucket/run"],
    ["report", "--workdir=gs://bucket/run"],
    ["export", "--workdir=gs://bucket/run", "--output=x.stablehlo"],
    ["export", "--workdir=w", "--output=gs://bucket/run"],
    ["translate", "--workdir=gs://bucket/run", "--input=a.png", "--output=x.png"],
    ["translate", "--workdir=w", "--input=gs://bucket/run", "--output=x.png"],
    ["translate", "--workdir=w", "--input=a.png", "--output=gs://bucket/run"],
    ["demo", "--workdir=gs://bucket/run"],
    ["demo", "--workdir=w", "--static=gs://bucket/run"],
    ["import-torch", "--workdir=gs://bucket/run", "--generator=g.pth"],
    ["extract", "--workdir=gs://bucket/run", "--replica=0", "--output=x"],
    ["extract", "--workdir=w", "--replica=0", "--output=gs://bucket/run"],
  ],
  ids=lambda arguments: " ".join(arguments[:1] + [each for each in arguments if "gs://" in each]),
)
def test_a_url_is_no_path(arguments, tmp_path, monkeypatch):
  """Path would make a folder "gs:" of it."""
  monkeypatch.chdir(tmp_path)
  (tmp_path / "a.png").touch()
  with pytest.raises(UsageError, match="is gs://bucket/run, a URL.*Mount the bucket"):
    if arguments[0] == "train":
      cli.train(arguments[1:])
    else:
      importlib.import_module(f"pix2pix_jax.{arguments[0].replace('-', '_')}").main(arguments[1:])
  assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_urls_are_refused_and_other_names_are_not():
  for url in ("gs://bucket", "s3://bucket/a b", "file:///data", Path("gs://bucket/a")):
    with pytest.raises(UsageError, match="a URL"):
      user_path("workdir", url)
  for path in ("runs/a", "C:/runs", "C:\\runs", "a:b", "runs/gs:/a", ""):
    assert user_path("workdir", path) == Path(path)
  assert user_path("workdir", "~/a") == Path.home() / "a"


def test_every_path_of_a_user_is_checked():
  """`user_path` also expands ~; a module that does so itself forgets about URLs."""
  own = {"errors.py", "cli.py", "config.py", "data/source.py"}  # of checked paths, configurations and the cache
  package = ROOT / "pix2pix_jax"
  found = {
    path.relative_to(package).as_posix() for path in package.rglob("*.py") if ".expanduser()" in path.read_text()
  }
  assert found == own
