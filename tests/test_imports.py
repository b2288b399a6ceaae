"""The shape of the code: which module imports which, sizes, what number types decide, and what runs code."""

import ast
from collections.abc import Iterator
from pathlib import Path
import re
import subprocess
import sys

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pix2pix_jax"
FILES = sorted(PACKAGE.rglob("*.py"))
SLOW = {"tensorflow", "tensorflow_datasets"}  # seconds to import


def module_name(path: Path) -> str:
  parts = path.relative_to(ROOT).with_suffix("").parts
  return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {module_name(path): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
FREE_OF_TENSORFLOW = [
  name
  for name in TREES
  if name.removeprefix("pix2pix_jax.")
  in ("config", "signals", "inference", "torch_weights", "cli", "launch", "demo", "data.files", "model")
  or name.startswith(("pix2pix_jax.model.", "pix2pix_jax.serving."))
]


def statements_that_run(body: list[ast.stmt]) -> Iterator[ast.stmt]:
  """The statements that an import of the module executes: not those of functions, and not those for type checkers."""
  for statement in body:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
      continue
    if isinstance(statement, ast.If) and ast.unparse(statement.test) in ("TYPE_CHECKING", "__name__ == '__main__'"):
      yield from statements_that_run(statement.orelse)
      continue
    yield statement
    for part in ("body", "orelse", "finalbody"):
      yield from statements_that_run(getattr(statement, part, []))
    for handler in getattr(statement, "handlers", []):
      yield from statements_that_run(handler.body)


def imported_by(name: str, statements) -> set[str]:
  """The modules that import statements load: those of this package in full, others by their first name."""
  found = set()
  for statement in statements:
    if isinstance(statement, ast.Import):
      found.update(alias.name for alias in statement.names)
    elif isinstance(statement, ast.ImportFrom):
      assert statement.level == 0, f"{name} has a relative import"
      found.add(statement.module)
      found.update(f"{statement.module}.{alias.name}" for alias in statement.names)
  parents = {module.rsplit(".", count)[0] for module in found for count in range(1, module.count(".") + 1)}
  found |= parents
  own = {module for module in found if module in TREES and module != name}
  return own | {module.split(".")[0] for module in found} - {"pix2pix_jax"}


GRAPH = {name: imported_by(name, statements_that_run(tree.body)) for name, tree in TREES.items()}


def find_cycle(graph: dict[str, set[str]]) -> list[str]:
  """A cycle as a list of names, the first one again at the end; empty if there is none."""
  done: set[str] = set()

  def visit(name: str, path: list[str]) -> list[str]:
    if name in path:
      return [*path[path.index(name) :], name]
    if name in done:
      return []
    for other in sorted(graph.get(name, ())):
      if cycle := visit(other, [*path, name]):
        return cycle
    done.add(name)
    return []

  return next((cycle for name in sorted(graph) if (cycle := visit(name, []))), [])


def reachable(graph: dict[str, set[str]], name: str) -> set[str]:
  found, waiting = set(), [name]
  while waiting:
    for other in graph.get(waiting.pop(), set()) - found:
      found.add(other)
      waiting.append(other)
  return found


def test_the_graph_itself_sees_what_it_has_to_see():
  assert {"tensorflow_datasets", "pix2pix_jax.data"} <= GRAPH["pix2pix_jax.data.prepare"]
  assert "pix2pix_jax.signals" in GRAPH["pix2pix_jax.config"] and "jax" in reachable(GRAPH, "pix2pix_jax.config")
  assert find_cycle({"a": {"b"}, "b": {"c", "d"}, "c": set(), "d": {"b"}}) == ["b", "d", "b"]
  assert find_cycle({"a": {"b", "c"}, "b": {"c"}}) == []


def test_no_module_imports_itself_by_way_of_others():
  assert not find_cycle(GRAPH)


def test_not_even_through_imports_inside_functions():
  everywhere = {name: imported_by(name, ast.walk(tree)) for name, tree in TREES.items()}
  # Type checkers alone follow the imports of the package's __init__, which loads its names on first use.
  everywhere["pix2pix_jax"] = GRAPH["pix2pix_jax"]
  assert not find_cycle(everywhere)


@pytest.mark.parametrize("name", FREE_OF_TENSORFLOW)
def test_the_core_imports_neither_tensorflow_nor_tfds(name):
  assert not reachable(GRAPH, name) & SLOW


@pytest.mark.parametrize("name", TREES)
def test_no_module_imports_tensorflow_before_it_needs_it(name):
  assert "tensorflow" not in GRAPH[name]


def test_nor_do_they_load_when_the_core_is_imported():
  extras = {"pix2pix_jax.serving.app", "pix2pix_jax.serving.onnx_graph"}  # need packages that may not be installed
  names = [name for name in FREE_OF_TENSORFLOW if name not in extras]
  program = f"import sys, {', '.join(names)}; print(sorted({SLOW!r} & set(sys.modules)))"
  done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
  assert done.stdout.strip() == "[]"


def test_the_repository_has_no_symlink():
  listed = subprocess.run(["git", "ls-files", "-s"], cwd=ROOT, capture_output=True, text=True, check=False)
  if listed.returncode:
    pytest.skip("not a git checkout")
  assert "pix2pix_jax/cli.py" in listed.stdout
  assert not [line for line in listed.stdout.splitlines() if line.startswith("120000")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_lines_and_functions_are_short(path):
  text = path.read_text(encoding="utf-8")
  assert not [number for number, line in enumerate(text.splitlines(), 1) if len(line) > 120]
  functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
  assert not [function.name for function in functions if function.end_lineno - function.lineno >= 100]


def test_the_training_loop_is_short():
  assert len((PACKAGE / "train.py").read_text(encoding="utf-8").splitlines()) < 200


def is_float32(node: ast.expr) -> bool:
  return (isinstance(node, ast.Constant) and node.value == "float32") or (
    isinstance(node, ast.Attribute) and node.attr == "float32"
  )


@pytest.mark.parametrize("name", TREES)
def test_no_number_type_decides_what_numbers_mean(name):
  """Signals say whether numbers are depth; comparing a dtype with float32 is how that used to be guessed."""
  compared = [
    f"line {node.lineno}: {ast.unparse(node)}"
    for node in ast.walk(TREES[name])
    if isinstance(node, ast.Compare)
    and any(isinstance(operator, ast.Eq | ast.NotEq) for operator in node.ops)
    and any(is_float32(side) for side in (node.left, *node.comparators))
  ]
  assert not compared


# Calls that run code which they are given, or read it from a file; SECURITY.md says why these are safe.
RUNS_CODE = {
  "pix2pix_jax.cli": {"importlib.import_module"},  # commands and configurations of the package, found in its lists
  "pix2pix_jax": {"importlib.import_module"},  # its own modules, by a list
  "pix2pix_jax.config": {"module_spec.loader.exec_module"},  # --config=FILE.py is the user's program
  "pix2pix_jax.data.beam": {"pickle.loads"},  # findings that the same run has written beside its shards
  "pix2pix_jax.data.formats.extras": {"importlib.import_module"},  # optional packages, by constants
  "pix2pix_jax.export": {"tf.saved_model.load"},  # what it has just written
  "pix2pix_jax.launch": {"os.execve"},  # the same program with one more environment variable
  "pix2pix_jax.run.loggers": {"importlib.import_module"},  # train.logger names the user's program
  "pix2pix_jax.run.programs": {"pickle.loads", "serialize_executable.deserialize_and_load"},  # the user's own cache
  "pix2pix_jax.serving.examples": {"subprocess.run"},  # this Python and a module of the package
  "pix2pix_jax.serving.static": {"subprocess.run"},  # npm pack, with constants
  "pix2pix_jax.torch_weights": {"pickle.Unpickler"},  # its subclass resolves a few harmless names
}
DANGEROUS = re.compile(
  r"(builtins\.)?(eval|exec|compile|__import__)|(c|cloud|_)?pickle\.(load|loads|Unpickler)|(dill|joblib|marshal|shelve)\..+"
  r"|importlib\.import_module|.*\.exec_module|runpy\..+|os\.(system|popen|exec.*|spawn.*|posix_spawn.*)|subprocess\..+"
  r"|asyncio\.create_subprocess_.+|pty\.spawn|torch\.load|yaml\.(unsafe_load|load|full_load)|.*deserialize_and_load"
  r"|(tf|tensorflow)\.(saved_model\.load|keras\.models\.load_model|py_function)|jax\.export\.deserialize"
)
HARMLESS = {"subprocess.TimeoutExpired", "pickle.dumps"}


def dangerous(tree: ast.AST) -> set[str]:
  """What is called, subclassed or passed on of `DANGEROUS`, and flags that open such a door."""
  found = {
    name
    for node in ast.walk(tree)
    if isinstance(node, ast.Attribute | ast.Name)
    and DANGEROUS.fullmatch(name := ast.unparse(node))
    and name not in HARMLESS
  }
  for node in ast.walk(tree):
    if isinstance(node, ast.ImportFrom) and node.module:
      found |= {name for alias in node.names if DANGEROUS.fullmatch(name := f"{node.module}.{alias.name}")} - HARMLESS
    if isinstance(node, ast.keyword) and node.arg in ("shell", "allow_pickle"):
      if not (isinstance(node.value, ast.Constant) and node.value.value is False):
        found.add(f"{node.arg}={ast.unparse(node.value)}")
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "np.load":
      if "allow_pickle" not in {keyword.arg for keyword in node.keywords}:
        found.add("np.load without allow_pickle=False")
  return found


@pytest.mark.parametrize("name", TREES)
def test_code_comes_from_the_package_and_the_user_alone(name):
  """Whatever can run code is in the list, with its reason; data cannot get there."""
  assert dangerous(TREES[name]) <= RUNS_CODE.get(name, set())


@pytest.mark.parametrize(
  "code",
  [
    "eval(x)",
    "builtins.exec(x)",
    "map(eval, xs)",
    "pickle.load(file)",
    "class A(pickle.Unpickler): pass",
    "from pickle import loads",
    "from subprocess import run",
    "subprocess.run(x, shell=True)",
    "np.load(path)",
    "np.load(path, allow_pickle=True)",
    "os.system(x)",
    "os.execvp(x, y)",
    "joblib.load(x)",
    "importlib.import_module(x)",
    "torch.load(x)",
  ],
)
def test_such_code_would_be_seen(code):
  assert dangerous(ast.parse(code))
  assert not dangerous(
    ast.parse("re.compile(x); np.load(p, allow_pickle=False); jitted.lower().compile(); pickle.dumps(x)")
  )
