"""The notation of `data.inputs`, which declares several inputs: one text for each, NAME[:KIND][,FIELD=VALUE …].

For example ("rgb", "lidar:depth,scale=256") or ("s1:quantity,unit=dB,range=-25/3/-30/0", "s2"). NAME is that of a
folder. The kind and the fields mean what `data.input_kind` and so on mean for a single input; slashes join the numbers
and colours of one field. Training adds the fields that it takes from the data.
"""

from collections.abc import Callable
import dataclasses
import re
from typing import Any

import numpy as np

from pix2pix_jax import palettes, signals
from pix2pix_jax.errors import UsageError
from pix2pix_jax.signals import Classes, Part, Quantity, Settings, Signal, Stack


def _numbers(text: str) -> tuple[float, ...]:
  return tuple(float(number) for number in text.split("/"))


def _pairs(text: str) -> tuple[tuple[float, float], ...]:
  values = _numbers(text)
  pairs = tuple(zip(values[::2], values[1::2]))
  if len(values) % 2 or not all(low < high for low, high in pairs):
    raise ValueError
  return pairs


def _colors(text: str) -> tuple[palettes.Color, ...]:
  return palettes.parse(text.replace("/", ","))


def _shown(text: str) -> tuple[int, ...]:
  channels = tuple(int(number) for number in text.split("/"))
  if len(channels) not in (1, 3) or min(channels) < 0:
    raise ValueError
  return channels


def _dtype(text: str) -> str:
  return np.dtype(text).name


def _choice(*choices: str) -> Callable[[str], str]:
  def parse(text: str) -> str:
    if text not in choices:
      raise ValueError
    return text

  return parse


FIELDS: dict[str, tuple[Callable[[str], Any], str]] = {  # name → (how it is read, what it has to be)
  "scale": (float, "a number"),
  "range": (_pairs, "lowest/highest, once or for each channel, as in 0/60"),
  "unit": (str, "a text"),
  "nodata": (_numbers, "numbers joined by slashes"),
  "classes": (int, "an integer"),
  "palette": (_colors, f"{', '.join(palettes.NAMED)} or #rrggbb/#rrggbb/…"),
  "ignore": (int, "an integer"),
  "colors": (_colors, "#rrggbb/#rrggbb/…"),
  "resampling": (_choice("auto", "bicubic", "area", "nearest"), "auto, bicubic, area or nearest"),
  "display": (_shown, "one or three channels, from 0, joined by slashes"),
  "channels": (int, "an integer"),
  "dtype": (_dtype, "a number type such as uint8"),
}


Range = tuple[float, float]


def parse(texts: tuple[str, ...], depth_range: Range = (0.0, 80.0)) -> tuple[Part, ...]:
  """The inputs that `data.inputs` declares.

  Args:
    texts: its value.
    depth_range: range of depth inputs that declare none.

  Raises:
    UsageError: a text that does not follow the notation, or a name that occurs twice.
  """
  parts = tuple(_parse_one(text, depth_range) for text in texts)
  if not parts:
    raise UsageError("data.inputs is empty; it names at least one folder.")
  names = [part.name.casefold() for part in parts]
  if len(set(names)) < len(names):
    raise UsageError(f"data.inputs is {texts}; name each folder only once.")
  if len(texts) == 1 and parts[0].name != texts[0].strip():
    raise UsageError(f"data.inputs is {texts}; the kind and range of a single input are data.input_kind and so on.")
  return parts


def _parse_one(text: str, depth_range: Range) -> Part:
  head, *rest = text.split(",")
  name, _, kind = (piece.strip() for piece in head.partition(":"))
  if not re.fullmatch(r"[^/\\,:]+", name):
    raise UsageError(f"data.inputs holds {text!r}; each input is NAME[:KIND][,FIELD=VALUE …], as in 'lidar:depth'.")
  values: dict[str, Any] = {}
  for piece in rest:
    field, equals, value = (each.strip() for each in piece.partition("="))
    if not equals:
      raise UsageError(
        f"data.inputs holds {text!r}; {piece!r} is not FIELD=VALUE. Give several inputs as separate strings, as in "
        "--config.data.inputs=\"('rgb', 'lidar:depth')\"."
      )
    if field not in FIELDS:
      raise UsageError(f"data.inputs holds {text!r}: {piece!r} is none of {', '.join(f'{each}=' for each in FIELDS)}.")
    convert, wanted = FIELDS[field]
    try:
      values[field] = convert(value)
    except (ValueError, TypeError, UsageError) as error:
      raise UsageError(f"data.inputs holds {text!r}: {field} is {value!r}; it has to be {wanted}.") from error
  kind = signals.check_kind(kind, f"The kind of data.inputs {text!r}") if kind not in ("", "auto") else "auto"
  of_depth = values["range"][0] if kind == "depth" and "range" in values else depth_range
  settings = Settings(
    kind=kind,
    depth_range=of_depth,
    scale=values.get("scale", 0.0),
    range=values.get("range", ()) if kind == "quantity" else (),
    unit=values.get("unit", ""),
    nodata=values.get("nodata", ()),
    count=values.get("classes", 0),
    palette=values.get("palette", ()),
    ignore=values.get("ignore", -1),
    shown=values.get("colors", ()),
    resampling=values.get("resampling", "auto"),
    display=values.get("display", ()),
  )
  return Part(name, settings, values.get("channels", 0), values.get("dtype", ""))


def write(stack: Stack) -> tuple[str, ...]:
  """The notation of inputs whose data are known."""
  return tuple(_write_one(name, signal) for name, signal in zip(stack.names, stack.parts))


def _write_one(name: str, signal: Signal) -> str:
  fields: dict[str, Any] = {"channels": signal.raw_channels, "dtype": signal.dtype}
  if isinstance(signal, signals.Depth):
    fields |= {"scale": f"{signal.scale:g}", "range": _joined(signal.range)}
  elif isinstance(signal, Quantity):
    fields |= {"range": _joined(value for pair in signal.range for value in pair), "unit": signal.unit}
    fields |= {"nodata": _joined(signal.nodata)}
  elif isinstance(signal, Classes):
    fields |= {"classes": signal.count, "ignore": signal.ignore if signal.has_holes else ""}
    for field, colors in (("palette", signal.palette), ("colors", signal.shown)):
      fields[field] = palettes.write(colors).replace(",", "/")
  if isinstance(signal, signals.Image | Quantity):
    fields |= {"resampling": signal.resampling, "display": _joined(signal.shown_channels)}
  return ",".join([f"{name}:{signal.kind}", *(f"{key}={value}" for key, value in fields.items() if value != "")])


def _joined(numbers: Any) -> str:
  return "/".join(f"{number:.9g}" for number in numbers)


def keep(texts: tuple[str, ...], recorded: tuple[str, ...]) -> tuple[str, ...]:
  """`data.inputs` of a resume, in which ranges and numbers of classes that are left open keep their recorded values."""
  old = {part.name: part for part in parse(recorded)}
  kept = []
  for text, part in zip(texts, parse(texts)):
    settings = part.settings
    if part.name in old and settings.kind in ("auto", old[part.name].settings.kind):
      known = old[part.name].settings
      if known.kind == "quantity" and not settings.range:
        text = _with(text, part, known.kind, range=_joined(value for pair in known.range for value in pair))
      if known.kind == "classes" and not settings.count:
        text = _with(text, part, known.kind, classes=str(known.count))
    kept.append(text)
  return tuple(kept)


def _with(text: str, part: Part, kind: str, **fields: str) -> str:
  """A text with its kind and more fields."""
  rest = text.split(",")[1:]
  return ",".join([f"{part.name}:{kind}", *rest, *(f"{key}={value}" for key, value in fields.items())])


def stored_form(parts: tuple[Part, ...]) -> list[tuple[Any, ...]]:
  """What prepared files depend on: the same before and after training has added what it takes from the data."""
  return [
    (part.name, part.settings.kind.replace("auto", "image"), part.settings.scale, part.settings.nodata)
    + (part.settings.palette, part.settings.ignore)
    for part in parts
  ]


def complete(declared: tuple[Part, ...], found: tuple[Part, ...]) -> tuple[Part, ...]:
  """Declared inputs with the kinds, forms and resampling that a reader found in their files.

  Raises:
    UsageError: an input that was trained in another form.
  """
  parts = []
  for part, other in zip(declared, found, strict=True):
    if part.channels not in (0, other.channels):
      raise UsageError(
        f"{part.name} has {other.channels} channels, but data.inputs declares {part.channels}. Take the original files."
      )
    settings = part.settings
    resampling = other.settings.resampling if settings.resampling == "auto" else settings.resampling
    parts.append(
      other._replace(settings=dataclasses.replace(settings, kind=other.settings.kind, resampling=resampling))
    )
  return tuple(parts)
