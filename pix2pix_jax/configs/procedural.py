"""Built-in façades, small: what `make demo` trains. Nothing to download, minutes on a laptop's CPU.

python main.py --config=configs/procedural.py --workdir=runs/demo
"""

from pix2pix_jax import config as config_lib


def get_config(variant: str = ""):
  config = config_lib.default()
  config.data.name = "procedural"
  config.data.task = "facades"
  config.data.load_size = 72
  config.data.crop_size = 64
  config.data.num_train, config.data.num_val, config.data.num_test = 400, 50, 50
  config.model.base_features = 32
  config.model.patch = 16
  config.train.batch_size = 1
  config.train.num_epochs = 8
  return config_lib.apply_variants(config, variant)
