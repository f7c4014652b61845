"""TensorFlow Serving's REST interface over a ModelStore, as a Starlette application."""

import asyncio
import functools
import json
import logging
import re

from google.protobuf import json_format
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route

from clustr_keras.serving.errors import ServingError
from clustr_keras.serving.model_info import model_status, signature_def_map
from clustr_keras.serving.predict_json import parse_predict, read_inputs, write_outputs

_log = logging.getLogger(__name__)

# The whole interface in one expression: what is not of this form is a malformed request.
_PATH = re.compile(
    r"/v1/models/(?P<name>[^/:]+)"
    r"(?:/versions/(?P<version>[0-9]{1,19})|/labels/(?P<label>[^/:]+))?"
    r"(?P<action>:predict|:classify|:regress|/metadata|)"
)
_POST = {":predict", ":classify", ":regress"}
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]  # so that all get the same kind of error


def build_rest_app(store, pool, max_request_bytes):
    """The REST interface of the models in a store.

    Args:
        store: A `ModelStore`.
        pool: Executor on which models run, so that the event loop only moves bytes.
        max_request_bytes: Largest body. A larger one is answered with 413, and never held in memory.

    Returns:
        A Starlette application.
    """

    async def endpoint(request):
        try:
            body = await _read_body(request, max_request_bytes)
            work = functools.partial(_answer, store, request.method, request.url.path, body)
            # Status and metadata are at hand: a probe must not wait for a model that is busy.
            is_quick = request.method == "GET"
            answer = work() if is_quick else await asyncio.get_running_loop().run_in_executor(pool, work)
        except ServingError as error:
            return _json({"error": error.message}, error.http_status)
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it
        except Exception:  # a bug: the caller learns that there is one, the log which
            _log.exception("REST request failed")
            return _json({"error": "the server failed; its log says why."}, 500)
        return Response(answer, media_type="application/json")

    return Starlette(routes=[Route("/{path:path}", endpoint, methods=_METHODS)])


async def _read_body(request, limit):
    too_large = ServingError(
        "RESOURCE_EXHAUSTED", f"the body is larger than {limit} bytes. Send fewer examples at a time.", http_status=413
    )
    # Judged by what the header declares, so that nothing is read in vain; and by what comes, as chunks declare nothing.
    if int(request.headers.get("content-length", 0)) > limit:
        raise too_large
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise too_large
        chunks.append(chunk)
    return b"".join(chunks)


def _answer(store, method, path, body):
    match = _PATH.fullmatch(path)
    if not match or method != ("POST" if match["action"] in _POST else "GET"):
        raise ServingError(
            "INVALID_ARGUMENT",
            f"malformed request: {method} {path}. Expected POST /v1/models/NAME[/versions/N]:predict or "
            "GET /v1/models/NAME[/versions/N][/metadata].",
        )
    name, label = match["name"], match["label"]
    version = int(match["version"]) if match["version"] else None
    if match["action"] == "" and label is None:
        return _message(model_status(store.versions(name, version)))
    model = store.find(name, version, label)
    if match["action"] == ":predict":
        return _predict(model, body)
    if match["action"] == "/metadata":
        return _metadata(model, name)
    raise ServingError("INVALID_ARGUMENT", f'no signature of this model is for {match["action"]}; use ":predict".')


def _predict(model, body):
    parsed = parse_predict(body)
    inputs = read_inputs(parsed, model.json_dtypes(parsed.signature_name))
    return write_outputs(model.run(parsed.signature_name, inputs), parsed.is_row_format)


def _metadata(model, name):
    return _dumps(
        {
            "model_spec": {"name": name, "signature_name": "", "version": str(model.version)},
            "metadata": {"signature_def": _dict(signature_def_map(model))},
        }
    )


def _message(message):
    return _dumps(_dict(message))


def _dict(message):
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def _dumps(value):
    return json.dumps(value, indent=1).encode()


def _json(value, status):
    return Response(_dumps(value), status_code=status, media_type="application/json")
