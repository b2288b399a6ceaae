"""pix2pix in JAX: paired image-to-image translation with conditional adversarial networks.

import pix2pix_jax as p2p
result = p2p.fit(x, y, batch_size=10, epochs=5, validation_split=0.1)
translator = p2p.Translator.load("runs/facades")
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"
__all__ = ["Translator", "UsageError", "fit"]

_HOMES = {"Translator": "inference", "UsageError": "errors", "fit": "fitting"}

if TYPE_CHECKING:
  from pix2pix_jax.errors import UsageError
  from pix2pix_jax.fitting import fit
  from pix2pix_jax.inference import Translator


def __getattr__(name: str) -> Any:
  """Imports on first use: `fit` loads what training needs; `Translator` does not."""
  if name not in _HOMES:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
