"""What the page and other programs have to know about a model, as JSON."""

import math
from typing import Any

import numpy as np

from pix2pix_jax import config as config_lib
from pix2pix_jax import depth, palettes
from pix2pix_jax.inference import Translator
from pix2pix_jax.signals import Classes, Depth, Image, Quantity, Signal, Stack


def describe(translator: Translator, name: str) -> dict[str, Any]:
  """The contents of model.json: both signals, the usual size and how values are shown."""
  height, width = config_lib.eval_shape(translator.config.data)
  levels = depth.colors(np.linspace(-1, 1, 256, dtype=np.float32)[None])[0]
  return {
    "name": name,
    "step": translator.step,
    "size": [height, width],
    "input": describe_signal(translator.input_signal),
    "target": describe_signal(translator.target_signal),
    "dropout": bool(translator.config.evaluation.dropout and translator.config.model.dropout_blocks),
    "colormap": levels.tolist(),  # from near or low to far or high; `reversed` in a signal turns it around
  }


def describe_signal(signal: Signal) -> dict[str, Any]:
  """A signal: kind, raw numbers, and what a page needs to draw and to show them."""
  about: dict[str, Any] = {
    "kind": signal.kind,
    "description": signal.describe(),
    "channels": signal.raw_channels,
    "dtype": signal.dtype,
    "unit": signal.unit,
    "missing": None if signal.missing is None or math.isnan(signal.missing) else signal.missing,
  }
  if isinstance(signal, Image):
    shown = signal.shown_channels or ((0, 1, 2) if signal.channels == 3 else (0,))
    about["shown"] = list(shown)
  elif isinstance(signal, Depth):
    about |= {"range": list(signal.range), "scale": signal.scale, "shown": [0], "reversed": False}
  elif isinstance(signal, Quantity):
    ranges = [list(signal.range_of(channel)) for channel in range(signal.channels)]
    about |= {"range": ranges[0], "ranges": ranges, "shown": list(signal.shown_channels or (0,)), "reversed": True}
  elif isinstance(signal, Classes):
    colors = [(int(red), int(green), int(blue)) for red, green, blue in signal.color_table[: signal.count]]
    about |= {"ignore": signal.ignore, "count": signal.count}
    about["classes"] = [
      {"value": [index], "color": list(color), "name": label}
      for index, (color, label) in enumerate(zip(colors, palettes.names_of(colors)))
      if index != signal.ignore
    ]
  elif isinstance(signal, Stack):
    about["parts"] = [{"name": label, **describe_signal(part)} for label, part in zip(signal.names, signal.parts)]
  return about
