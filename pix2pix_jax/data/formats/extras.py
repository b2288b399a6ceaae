"""Libraries that some formats need and a plain installation lacks."""

import importlib
import logging
from typing import Any

from pix2pix_jax.errors import UsageError

EXTRAS = {"rasterio": "geo", "nibabel": "medical", "SimpleITK": "medical", "h5py": "", "apache_beam": "beam"}


def available(name: str) -> bool:
  """Whether a library of `EXTRAS` can be imported."""
  try:
    importlib.import_module(name)
  except ImportError:
    return False
  return True


def load(name: str, purpose: str) -> Any:
  """Imports a library of `EXTRAS`, and silences what it would print about files whose errors are reported anyway.

  Args:
    name: name of the module.
    purpose: the file or the action that needs it, the subject of the error message.

  Raises:
    UsageError: it is not installed; the message names the extra that installs it.
  """
  try:
    module = importlib.import_module(name)
  except ImportError as error:
    extra = f"[{EXTRAS[name]}]" if EXTRAS[name] else ""
    raise UsageError(
      f"{purpose} needs the package {name}, which is not installed: run pip install '.{extra}' in the folder of "
      f"pix2pix_jax, or pip install {name}."
    ) from error
  if name == "SimpleITK":
    module.ProcessObject.SetGlobalWarningDisplay(False)
  else:
    logging.getLogger("nibabel.global" if name == "nibabel" else name).setLevel(logging.CRITICAL)
  return module
