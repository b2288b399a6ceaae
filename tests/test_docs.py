"""The documentation: commands, fields, links and paths exist, and the prose avoids phrases that confused readers."""

import argparse
import ast
from collections.abc import Iterator
import functools
import html
import importlib
import importlib.util
from pathlib import Path
import re
import shlex

import pytest

from pix2pix_jax import cli
from pix2pix_jax import config as config_lib
from pix2pix_jax.errors import UsageError

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pix2pix_jax"
PAGES = [
  ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "notebooks/README.md")
] + sorted((ROOT / "docs").glob("*.md"))
FIELDS = dict(config_lib.each_field())
PHRASES = [  # as regular expressions, in any case
  r"anew",
  r"tells? of",
  r"(is|be|are) told(?! apart)",
  r"as of (its|the)",
  r"what (does|do|did) not",
  r"what is (no|an?)",
  r"goes on|going on|went on",
  r"honest",
  r"by heart",
  r"means nothing",
  r"has bought",
  r"nothing is to be",
  r"judged rightly",
  r"trainings|of a training(?! (step|run|split|image|pair))|the training (has|ended)",
  r"equal pictures|mean target picture",
  r"remarks",
  r"batch companions",
  r"itself of",
  r"stands a variant",
]


def name_of(page: Path) -> str:
  return page.relative_to(ROOT).as_posix()


def text_of(page: Path) -> str:
  return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
  """The fenced code blocks of a language."""
  return re.findall(rf"^```{language}\n(.*?)^```$", text_of(page), re.MULTILINE | re.DOTALL)


def spans(page: Path) -> list[str]:
  """Inline code, in which a line break counts as a space."""
  prose = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
  return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]


def command_lines(page: Path) -> Iterator[tuple[list[str], bool]]:
  """(words, whether the command is complete) of every line in shell blocks, and of inline code that is a command."""
  for block in blocks(page, "sh"):
    for line in block.replace("\\\n", " ").splitlines():
      for part in re.split(r" && ", line):
        if words := shlex.split(part, comments=True):
          yield words, True
  for span in spans(page):
    if re.match(r"(GLIBC_TUNABLES= )?(python main\.py|python -m pix2pix_jax|pix2pix_jax|main\.py)( |\.|$)|make ", span):
      yield shlex.split(span), "…" not in span and " -" in span


def own_command(words: list[str]) -> tuple[str, list[str]] | None:
  """(command, its arguments) of this package, or None for another program; "…" is dropped."""
  words = [word for word in words if word not in ("…", "GLIBC_TUNABLES=")]
  if words[:2] == ["python", "main.py"] or words[0] == "main.py":
    return "train", words[1 + (words[0] == "python") :]
  if words[:2] == ["python", "-m"] and words[2].startswith("pix2pix_jax."):
    return words[2].removeprefix("pix2pix_jax.").replace("_", "-"), words[3:]
  if words[0] == "pix2pix_jax":
    return (words[1], words[2:]) if len(words) > 1 else None
  return None


class Parsed(Exception):
  """Raised in place of the work of a command, once its flags have been parsed."""

  def __init__(self, parser: argparse.ArgumentParser):
    self.parser = parser


def parse(command: str, arguments: list[str]) -> argparse.ArgumentParser:
  """The parser of a command other than `train`, after it has accepted the arguments."""
  original = argparse.ArgumentParser.parse_args

  def stop(self, argv=None, namespace=None):
    self.allow_abbrev = False
    if arguments:
      original(self, argv, namespace)
    raise Parsed(self)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(argparse.ArgumentParser, "parse_args", stop)
    with pytest.raises(Parsed) as parsed:
      module = cli if command == "fields" else importlib.import_module(f"pix2pix_jax.{command.replace('-', '_')}")
      (cli.fields if command == "fields" else module.main)(arguments)
  return parsed.value.parser


@functools.cache
def actions() -> list[argparse.Action]:
  """The flags of every command but `train`."""
  return [action for command in cli.COMMANDS if command != "train" for action in parse(command, [])._actions]


def accepts(action: argparse.Action, value: str) -> bool:
  """Whether a flag accepts a value, which in the documentation may be a placeholder in capitals."""
  if action.nargs == 0:
    return not value
  if action.choices:
    return value in action.choices or not value
  return not value or value.isupper() or action.type in (None, Path) or bool(re.fullmatch(r"\d+", value))


def test_the_readme_is_short():
  assert len(text_of(ROOT / "README.md").splitlines()) <= 150


def test_the_readme_explains_the_losses_in_the_log():
  assert {"generator_loss", "discriminator_loss", "gan_loss", "l1_loss", "l1"} <= set(spans(ROOT / "README.md"))


def test_every_notebook_is_described():
  listed = re.findall(r"^\| \[(.*?)\]", text_of(ROOT / "notebooks/README.md"), re.MULTILINE)
  assert sorted(listed) == sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))


def test_the_console_page_shows_errors_as_printed():
  """Those that appear before any data is read."""
  pages = re.findall(
    r"^```sh\n(.*)\n```\n\n```text\nerror: (.*)\n```$", text_of(ROOT / "docs/console.md"), re.MULTILINE
  )
  assert pages
  for line, message in pages:
    command, arguments = own_command(shlex.split(line))
    assert command == "train"
    with pytest.raises(UsageError) as error:
      cli.train(arguments)
    assert str(error.value) == message


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_images_exist(page):
  for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
    if target.startswith(("http://", "https://")):
      continue
    place, _, anchor = target.partition("#")
    path = (page.parent / place).resolve() if place else page
    assert path.exists() and path.is_relative_to(ROOT), target
    if anchor:
      headings = re.findall(r"^#+ (.*)$", text_of(path), re.MULTILINE)
      slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
      assert anchor in slugs, target


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=name_of)
def test_paths_in_the_repository_exist(page):
  for span in spans(page):
    if re.fullmatch(r"(pix2pix_jax|configs|benchmarks|tests|docs|notebooks)/[\w./]*", span) and "NAME" not in span:
      assert (ROOT / span).exists(), span


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_are_accepted(page, monkeypatch):
  monkeypatch.chdir(ROOT)
  for words, complete in command_lines(page):
    if words[0] == "make":
      assert re.search(rf"^{words[1]}:", text_of(ROOT / "Makefile"), re.MULTILINE), words
    if words[0] == "python" and words[1].startswith("benchmarks/"):
      sources = text_of(ROOT / words[1]) + text_of(ROOT / "benchmarks/measure.py")
      for flag in words[2:]:
        assert re.search(rf"\b{flag.partition('=')[0].removeprefix('--')}\b", sources), flag
    if (found := own_command(words)) is None or found[0] in ("NAME", "--help"):
      continue
    command, arguments = found
    assert command in cli.COMMANDS, words
    if "--help" in arguments:
      continue
    if command == "train":
      if not complete:
        arguments = ["--config=facades", "--workdir=w", *arguments]
      cli.parse_train([argument.replace("NAME", "facades") for argument in arguments])
    elif complete:
      parse(command, arguments)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_fields_exist_and_accept_the_documented_values(page):
  for name, value in re.findall(r"--config\.([a-z][a-z0-9_.]*[a-z0-9])(=\"[^\"]*\"|='[^']*'|=[^\s`]*)?", text_of(page)):
    assert name in FIELDS, name
    if value:
      cli.parse_train(["--config=facades", "--workdir=w", f"--config.{name}{''.join(shlex.split(value))}"])
  sections = "|".join(filter(None, config_lib.FIELDS))
  for span in spans(page):
    if (match := re.fullmatch(rf"((?:{sections})\.[a-z]\w*)", span)) and not span.endswith(".py"):
      assert match[1] in FIELDS, span


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "migrating.md"], ids=name_of)
def test_flags_in_the_text_exist(page):
  """migrating.md is left out because it also has the flags of another program."""
  train = (*cli.TRAIN_FLAGS, "--help")
  for span in spans(page):
    for flag, value in re.findall(r"(?:^| )(--[a-z][\w-]*)(?:=(\S+))?", span):
      if flag in train or span.startswith(("python benchmarks/", "git ")):
        continue
      assert any(flag in action.option_strings and accepts(action, value) for action in actions()), span


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_examples_use_parameters_that_exist(page):
  known = set()
  for name in ("fitting.py", "inference.py"):
    for node in ast.walk(ast.parse(text_of(PACKAGE / name))):
      if isinstance(node, ast.FunctionDef) and node.name in ("fit", "__call__", "load", "evaluate", "predict"):
        known |= {argument.arg for argument in node.args.args + node.args.kwonlyargs}
  for block in blocks(page, "python"):
    for node in ast.walk(ast.parse(block)):
      if isinstance(node, ast.Call):
        assert {keyword.arg for keyword in node.keywords} <= known, block
      if isinstance(node, ast.keyword) and node.arg == "overrides":
        assert set(ast.literal_eval(node.value)) <= FIELDS.keys()


def test_the_new_import_paths_exist():
  table = text_of(ROOT / "CHANGELOG.md").partition("### Import paths")[2].partition("\n## ")[0]
  rows = [line.split("|")[2] for line in table.splitlines() if line.startswith("| `")]
  modules = [module for row in rows for module in re.findall(r"`(pix2pix_jax[\w.]+)`", row)]
  assert len(modules) > 20
  for module in modules:
    assert importlib.util.find_spec(module), module


def test_the_citation_names_this_version():
  version = re.search(r'^__version__ = "(.*)"$', text_of(PACKAGE / "__init__.py"), re.MULTILINE)[1]
  assert f"\nversion: {version}\n" in text_of(ROOT / "CITATION.cff")
  assert f"\n## {version}" in text_of(ROOT / "CHANGELOG.md")


def test_the_package_is_never_installed_from_an_index():
  texts = [text_of(path) for path in [*PAGES, *PACKAGE.rglob("*.py")]]
  assert not [line for text in texts for line in text.splitlines() if re.search(r"pip install '?pix2pix_jax", line)]


def phrases_in(text: str) -> list[str]:
  joined = " ".join(text.split())
  return [match[0] for phrase in PHRASES for match in re.finditer(rf"\b({phrase})\b", joined, re.IGNORECASE)]


def test_the_list_of_phrases_finds_what_it_should():
  assert phrases_in("starts\nanew") == ["anew"]
  assert phrases_in("What does not match, of a training") == ["What does not", "of a training"]
  assert phrases_in("Runs resume. Training takes an hour.") == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_prose_of_pages(page):
  assert phrases_in(text_of(page)) == []


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=name_of)
def test_prose_of_docstrings_and_messages(path):
  strings = [
    node.value
    for node in ast.walk(ast.parse(text_of(path)))
    if isinstance(node, ast.Constant) and isinstance(node.value, str)
  ]
  assert [phrase for string in strings for phrase in phrases_in(string)] == []


def test_prose_of_the_report():
  assert phrases_in(html.unescape(text_of(PACKAGE / "report_template.html"))) == []
