"""Readers (raw files → prepared TFDS shards), the pipeline and the procedural scenes.

Importing them imports no TensorFlow. What that prints on import can only be turned off before, so it is done here.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # silences its notice; TensorFlow only moves data here
