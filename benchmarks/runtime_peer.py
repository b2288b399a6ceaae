"""The generator in ONNX Runtime or OpenVINO: the peers of translate.py that only run networks.

Both read the graph that `demo --static` writes (`serving.onnx_graph`), for a fixed batch of images of a fixed size,
without dropout and with the running statistics, in float32 with a thread for each core. uint8 arrays in and out.
translate.py starts this file as its `measure.Peer`, whose requests `serve` answers.
"""

import argparse
import copy
import json
import os
from pathlib import Path
import sys
import time

import numpy as np

PACKAGES = {"ONNX Runtime": "onnxruntime", "OpenVINO": "openvino"}


def write_model(translator, shape, path):
  """Writes the generator of a `Translator` for images (N, H, W, C) of this shape."""
  import onnx

  from pix2pix_jax.serving import onnx_graph

  config = copy.deepcopy(translator.config)
  config.evaluation.norm_stats = "running"
  config.model.dropout_blocks = ()
  data, masks = onnx_graph.make(config, translator.variables)
  assert not masks
  model = onnx.load_from_string(data)
  count, height, width, _ = shape
  for value in (*model.graph.input, *model.graph.output):
    dims = value.type.tensor_type.shape.dim
    for dim, size in zip(dims, (count, dims[1].dim_value, height, width), strict=True):
      dim.dim_value = size
  onnx.save(model, path)


def onnx_runtime(path, threads):
  """(function from NCHW to NCHW, the runtime's version)."""
  import onnxruntime

  options = onnxruntime.SessionOptions()
  options.intra_op_num_threads = threads
  session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
  return lambda x: session.run(["y"], {"x": x})[0], onnxruntime.__version__


def openvino_runtime(path, threads):
  """The same."""
  import openvino

  hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
  request = openvino.Core().compile_model(path, "CPU", hints).create_infer_request()
  return lambda x: request.infer({"x": x}, share_inputs=True, share_outputs=True)["y"], openvino.__version__


RUNTIMES = {"ONNX Runtime": onnx_runtime, "OpenVINO": openvino_runtime}


def serve(name, folder):
  """Prints the runtime's settings, then seconds per call for each number of calls that it reads, as JSON lines.

  `folder` has model.onnx and images.npy; the translated images go there too, as the runtime's name .npy.
  """
  threads = os.cpu_count()
  forward, version = RUNTIMES[name](f"{folder}/model.onnx", threads)
  images = np.load(f"{folder}/images.npy")
  print(json.dumps({"version": version, "threads": threads}), flush=True)
  for line in sys.stdin:
    begin = time.perf_counter()
    for _ in range(int(line)):
      x = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).astype(np.float32)
      x /= 127.5
      x -= 1
      y = forward(x) + 1
      y *= 127.5
      outputs = np.ascontiguousarray(np.rint(y, out=y).astype(np.uint8).transpose(0, 2, 3, 1))
    seconds = (time.perf_counter() - begin) / int(line)
    np.save(Path(folder) / f"{name}.npy", outputs)
    print(json.dumps({"seconds": seconds}), flush=True)


if __name__ == "__main__":
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--serve", choices=RUNTIMES, required=True)
  parser.add_argument("--settings", default="{}")
  options = parser.parse_args()
  serve(options.serve, **json.loads(options.settings))
