"""The OpenAPI document of the HTTP interface."""

from typing import Any

from pix2pix_jax import __version__
from pix2pix_jax.serving import payload


def document(about: dict[str, Any]) -> dict[str, Any]:
  """OpenAPI 3.1 of a model, described as in model.json."""
  limits = about["limits"]
  return {
    "openapi": "3.1.0",
    "info": {
      "title": f"pix2pix_jax: {about['name']}",
      "version": __version__,
      "description": f"Translates images with one model. Input: {about['input']['description']}. Output: "
      f"{about['target']['description']}. Any height and width; usual are {about['size'][0]}×{about['size'][1]}.",
    },
    "paths": {
      "/translate": {"post": _translate(about)},
      "/read": {
        "post": {
          "summary": "Returns the image in the body, not translated, as numbers in the form that the model accepts.",
          "operationId": "read",
          "parameters": [
            _parameter("size", "HEIGHTxWIDTH to resize to, after a crop to these proportions.", {"type": "string"})
          ],
          "requestBody": _body(limits),
          "responses": {"200": {"description": "The numbers.", "content": _content(["npy"])}, **_errors()},
        }
      },
      "/health": {"get": _json("Whether the server works, its checkpoint and counts.", "health")},
      "/model.json": {"get": _json("The model: both signals, the usual size, limits and formats.", "model")},
      "/examples.json": {"get": _json("The examples of the run's data.", "examples")},
      "/examples/{index}_{side}.npy": {
        "get": {
          "summary": "The input or the target of an example, in raw numbers.",
          "operationId": "example",
          "parameters": [
            _in_path("index", {"type": "integer", "minimum": 0}),
            _in_path("side", {"enum": ["input", "target"]}),
          ],
          "responses": {
            "200": {"description": "The array.", "content": _content(["npy"])},
            "404": {"description": "There is no such example."},
          },
        }
      },
    },
    "components": {
      "schemas": {
        "Error": {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}},
      }
    },
  }


def _translate(about: dict[str, Any]) -> dict[str, Any]:
  limits, formats = about["limits"], about["formats"]
  meanings = "; ".join(f"{name}: {payload.FORMATS[name].meaning}" for name in formats)
  return {
    "summary": "Translates the image in the body.",
    "description": "The same image, seed and dropout give the same result. Images of one size that wait together are "
    "computed as one batch. The other images of a batch do not affect a result, but the number of images in it can "
    "change an 8-bit value by one, or a float in its last digits; alone=on avoids that.",
    "operationId": "translate",
    "parameters": [
      _parameter("seed", "Seed of the noise.", {"type": "integer", "minimum": 0, "maximum": 2**32 - 1, "default": 0}),
      _parameter(
        "samples",
        "Results to draw; more than one need format=tiff or npy.",
        {"type": "integer", "minimum": 1, "maximum": limits["samples"], "default": 1},
      ),
      _parameter("dropout", "The noise; by default as in the run.", {"enum": ["on", "off"]}),
      _parameter("alone", "Whether to compute this image in a batch of its own.", {"enum": ["on", "off"]}),
      _parameter("format", f"{meanings}. Default: by the Accept header, else {formats[0]}.", {"enum": formats}),
    ],
    "requestBody": _body(limits),
    "responses": {
      "200": {
        "description": "The translation.",
        "headers": {
          "x-step": {"description": "Step of the checkpoint.", "schema": {"type": "string"}},
          "x-unit": {"description": "Unit of the values.", "schema": {"type": "string"}},
          "x-depth-scale": {
            "description": "Depth in PNG: metres times this number; 0 where there is no value.",
            "schema": {"type": "string"},
          },
        },
        "content": _content(formats),
      },
      **_errors(),
    },
  }


def _body(limits: dict[str, Any]) -> dict[str, Any]:
  types = ("image/png", "image/tiff", "image/jpeg", "application/x-npy")
  return {
    "required": True,
    "description": f"The bytes of one image: at most {limits['bytes']:,} bytes and {limits['pixels']:,} pixels. The "
    "content determines the format, whatever the Content-Type says.",
    "content": {name: {"schema": {"type": "string", "format": "binary"}} for name in types},
  }


def _content(formats: list[str]) -> dict[str, Any]:
  types = dict.fromkeys(payload.FORMATS[name].media_type for name in formats)
  return {name: {"schema": {"type": "string", "format": "binary"}} for name in types}


def _errors() -> dict[str, Any]:
  meanings = {
    "400": "The image or a parameter is not accepted; the message says why.",
    "408": "The body took too long to arrive.",
    "413": "Too many bytes or pixels.",
    "415": "Not an image in a known format.",
    "503": "Too many images are waiting; try again later.",
  }
  schema = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
  return {status: {"description": meaning, "content": schema} for status, meaning in meanings.items()}


def _json(summary: str, name: str) -> dict[str, Any]:
  content = {"application/json": {"schema": {"type": "object"}}}
  return {"summary": summary, "operationId": name, "responses": {"200": {"description": "JSON.", "content": content}}}


def _parameter(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
  return {"name": name, "in": "query", "description": description, "schema": schema}


def _in_path(name: str, schema: dict[str, Any]) -> dict[str, Any]:
  return {"name": name, "in": "path", "required": True, "schema": schema}
