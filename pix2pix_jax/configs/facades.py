"""Façades: architectural labels → photograph (Isola et al. 2017, section 6.2; 200 epochs).

    python main.py --config=configs/facades.py --workdir=runs/facades

downloads the pix2pix archive (400 + 100 + 106 pairs); `--config.data.source_dir=DIR` reads a folder that is
already there, in the archive's layout or CMP's own. Batch 10 is the report's; the paper's is `--config.train.batch_size=1`.

Variants (`--config=configs/facades.py:NAME`, several joined by commas):
  report      the student report's architecture and settings: wide decoder, PatchGAN 286, unhalved discriminator loss.
  procedural  the same experiment on built-in façades; no download.
"""

from pix2pix_jax import config as config_lib


def get_config(variant: str = ""):
  config = config_lib.default()
  config.data.name = "facades"
  config.train.batch_size = 10
  config.train.num_epochs = 200
  return config_lib.apply_variants(
    config, variant, report=config_lib.report_architecture(patch=286), procedural=config_lib.procedural_data("facades")
  )
