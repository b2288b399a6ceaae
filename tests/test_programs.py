"""Compiled programs that are kept: used only for the very same thing, and with the same bits."""

import dataclasses
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pix2pix_jax.model import convolution
from pix2pix_jax.run import programs
from pix2pix_jax.run.programs import Program


@dataclasses.dataclass(eq=False)
class Traced:
  """A function that counts how often it is traced."""

  factor: float = 2.0
  count: int = 0

  def __call__(self, tree):
    self.count += 1
    return {"scaled": jax.tree.map(lambda leaf: jnp.sin(leaf) * self.factor, tree), "total": tree["x"].sum()}


@pytest.fixture
def folder(tmp_path):
  """The folder of the programs, in a cache of its own."""
  old = jax.config.values["jax_compilation_cache_dir"]
  jax.config.update("jax_compilation_cache_dir", str(tmp_path))
  yield tmp_path / "programs"
  jax.config.update("jax_compilation_cache_dir", old)


def call(traced, x=None, name="f", options=None):
  """(result, number of traces) of a new program, as a new start makes it; its files are written before it returns."""
  x = np.linspace(0, 1, 6, dtype=np.float32) if x is None else x
  program = Program(name, jax.jit(traced), lambda: repr(traced.factor), options)
  result = jax.tree.map(np.asarray, program({"x": x, "none": None}))
  programs._threads().submit(int).result()
  programs._threads().submit(int).result()
  programs._threads().shutdown()
  programs._threads.cache_clear()
  return result, traced.count


def files(folder):
  return {path: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_next_start_traces_nothing_and_computes_the_same(folder):
  first, count = call(Traced())
  assert count == 1 and len(files(folder)) == 2
  second, count = call(Traced())
  assert count == 0
  assert {name: np.asarray(value).tobytes() for name, value in second.items() if name == "total"} == {
    "total": first["total"].tobytes()
  }
  np.testing.assert_array_equal(second["scaled"]["x"], first["scaled"]["x"])


def test_nothing_is_used_for_anything_else(folder, monkeypatch):
  """Other settings, shapes, code, versions, flags, settings of JAX, forms of convolution, processors."""
  call(Traced())
  assert call(Traced(3.0))[1] == 1
  assert call(Traced(), np.zeros(7, np.float32))[1] == 1
  assert call(Traced(), np.zeros(6, np.int32))[1] == 1
  assert call(Traced(), options={"level": 1})[1] == 1
  assert call(Traced())[1] == 0
  with convolution.use_form("lax"):
    assert call(Traced())[1] == 1
  with jax.default_matmul_precision("highest"):
    assert call(Traced())[1] == 1
  for owner, name, value in (
    (programs, "_code", lambda: "other code"),
    (programs, "_processor", lambda: "another processor"),
    (programs.metadata, "version", lambda name: "0"),
  ):
    with monkeypatch.context() as patch:
      patch.setattr(owner, name, value)
      assert call(Traced())[1] == 1, name
  monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
  assert call(Traced())[1] == 1
  monkeypatch.undo()
  assert call(Traced())[1] == 0


def test_code_that_changes_no_program_compiles_nothing(folder, monkeypatch):
  call(Traced())
  codes = {path for path in files(folder) if path.suffix}
  monkeypatch.setattr(programs, "_code", lambda: "a comment more")
  assert call(Traced())[1] == 1
  assert {path for path in files(folder) if path.suffix} == codes and len(files(folder)) == 3
  assert call(Traced())[1] == 0


@pytest.mark.parametrize(
  "damage", [lambda content: b"", lambda content: content[:-1], lambda content: b"x" + content[1:]]
)
@pytest.mark.parametrize("which", ["", ".code"])
def test_a_damaged_file_is_ignored_and_written_again(folder, damage, which):
  first, _ = call(Traced())
  before = files(folder)
  (path,) = (path for path in before if path.suffix == which)
  path.write_bytes(damage(before[path]))
  second, count = call(Traced())
  assert count == 1
  np.testing.assert_array_equal(second["scaled"]["x"], first["scaled"]["x"])
  assert programs._read(path)
  assert call(Traced())[1] == 0


def test_what_jax_refuses_is_compiled_again(folder):
  call(Traced())
  (path,) = (path for path in files(folder) if path.suffix)
  programs._write_file(path, pickle.dumps("not a program"))
  assert call(Traced())[1] == 1 and call(Traced())[1] == 0


def test_a_loaded_program_still_consumes_what_is_donated(folder):
  for _ in range(2):
    program = Program("f", jax.jit(lambda x: x + 1, donate_argnums=0), lambda: "")
    x = jnp.zeros(1000)
    y = program(x)
    assert x.is_deleted() and y[0] == 1 and program(y)[0] == 2
    programs._threads().submit(int).result()
    programs._threads().shutdown()
    programs._threads.cache_clear()


def test_a_program_can_be_started_before_it_is_called(folder):
  traced = Traced()
  program = Program("f", jax.jit(traced), lambda: "")
  assert not program.is_kept({"x": np.ones(6, np.float32), "none": None})
  program.start({"x": jax.ShapeDtypeStruct((6,), "float32"), "none": None})
  result = program({"x": np.ones(6, np.float32), "none": None})
  assert traced.count == 1 and len(program) == 1 and result["total"] == 6
  assert program.outputs({"x": np.ones(6, np.float32), "none": None})["total"].shape == ()


def test_an_error_of_tracing_appears_in_the_call(folder):
  def fail(x):
    raise ValueError("too small")

  program = Program("f", jax.jit(fail), lambda: "")
  program.start(jax.ShapeDtypeStruct((2,), "float32"))
  with pytest.raises(ValueError, match="too small"):
    program(np.ones(2, np.float32))


def test_nothing_is_kept_without_a_cache(folder):
  jax.config.update("jax_compilation_cache_dir", None)
  assert call(Traced())[1] == call(Traced())[1] == 1
  assert not folder.exists()


def test_old_files_are_deleted(folder, monkeypatch):
  monkeypatch.setattr(programs, "KEPT", 4)
  for factor in range(4):
    call(Traced(float(factor)))
  assert len(files(folder)) == 4
