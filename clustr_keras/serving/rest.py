"""TensorFlow Serving's REST interface over a Predictor, as a Starlette application."""

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
from clustr_keras.serving.monitoring import METRICS_PATH
from clustr_keras.serving.predict_json import parse_predict, read_inputs, write_outputs
from clustr_keras.serving.predictor import Predictor

_log = logging.getLogger(__name__)

# The whole interface in one expression: what is not of this form is a malformed request.
_PATH = re.compile(
    r"/v1/models/(?P<name>[^/:]+)"
    r"(?:/versions/(?P<version>[0-9]{1,19})|/labels/(?P<label>[^/:]+))?"
    r"(?P<action>:predict|:classify|:regress|/metadata|)"
)
# Bytes of memory for each byte of JSON: what the numbers of an image take as Python's objects.
_JSON_COST = 8
_POST = {":predict", ":classify", ":regress"}
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]  # so that all get the same kind of error


def build_rest_app(predictor: Predictor, timeout: float) -> Starlette:
    """The REST interface of the models of a `Predictor`.

    A body that is too large is answered with 413, and never held in memory.

    Args:
        predictor: A `Predictor`.
        timeout: Seconds that a request may wait for its turn.

    Returns:
        A Starlette application.
    """

    async def answer(request):
        match = _match(request.method, request.scope["path"])
        if match["action"] != ":predict":
            return _at_hand(predictor.stores, match)
        if request.headers.get("content-encoding", "identity") != "identity":
            raise ServingError("INVALID_ARGUMENT", "the body must not be compressed; send it without Content-Encoding.")
        with predictor.room() as room:
            body = await _read_body(request, room, timeout)
            read, write = functools.partial(_read_call, body), _write_outputs
            return await _unless_left(
                request, predictor.predict(_choice(match), ("predict", "REST"), read, write, timeout)
            )

    async def endpoint(request):
        try:
            return Response(await answer(request), media_type="application/json")
        except ServingError as error:
            return _json({"error": error.message}, error.http_status)
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it
        except Exception:  # a bug: the caller learns that there is one, the log which
            _log.exception("REST request failed")
            return _json({"error": "the server failed; its log says why."}, 500)

    async def monitoring(request):
        return Response(predictor.metrics.page(), media_type="text/plain; version=0.0.4")

    return Starlette(
        routes=[Route(METRICS_PATH, monitoring), Route("/{path:path}", endpoint, methods=_METHODS)],
    )


async def _read_body(request, room, timeout):
    room.check(int(request.headers.get("content-length", 0)))  # so that nothing is read in vain
    chunks = []
    try:
        async with asyncio.timeout(timeout):
            async for chunk in request.stream():
                room.take(len(chunk), _JSON_COST)
                chunks.append(chunk)
    except TimeoutError:
        raise ServingError(
            "DEADLINE_EXCEEDED", f"the body did not come within {timeout:g} s.", http_status=408
        ) from None
    return b"".join(chunks)


async def _unless_left(request, answer):
    """What `answer` gives, which is given up when the caller leaves."""
    answering = asyncio.ensure_future(answer)
    leaving = asyncio.ensure_future(request.receive())  # the body was read: what comes now is the end
    try:
        await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            raise ClientDisconnect
        return answering.result()
    finally:
        leaving.cancel()
        answering.cancel()


def _match(method, path):
    match = _PATH.fullmatch(path)
    if not match or method != ("POST" if match["action"] in _POST else "GET"):
        raise ServingError(
            "INVALID_ARGUMENT",
            f"malformed request: {method} {path}. Expected POST /v1/models/NAME[/versions/N|/labels/L]:predict or "
            "GET /v1/models/NAME[/versions/N|/labels/L][/metadata].",
        )
    return match


def _choice(match):
    """Name, version and label."""
    return match["name"], int(match["version"]) if match["version"] else None, match["label"]


def _at_hand(stores, match):
    """What is answered at once: a probe must not wait for a model that is busy."""
    if match["action"] == "":
        return _message(model_status(stores.versions(*_choice(match))))
    model = stores.find(*_choice(match))
    if match["action"] == "/metadata":
        return _metadata(model)
    raise ServingError("INVALID_ARGUMENT", f'no signature of this model is for {match["action"]}; use ":predict".')


def _read_call(body, model):
    parsed = parse_predict(body)
    inputs = read_inputs(parsed, model.json_dtypes(parsed.signature_name))
    return model.prepare(parsed.signature_name, inputs), parsed.is_row_format


def _write_outputs(model, call, outputs, is_row_format):
    return write_outputs(outputs, is_row_format)


def _metadata(model):
    return _dumps(
        {
            "model_spec": {"name": model.name, "signature_name": "", "version": str(model.version)},
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
