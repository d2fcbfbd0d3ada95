"""A native body to an :class:`EmbedRequest`."""

from __future__ import annotations

from typing import Any

from embedserve.catalogue import find_model
from embedserve.errors import EmbedserveError, invalid_input, missing_field
from embedserve.http.fields import check_rows, choice, integer
from embedserve.service import EmbedRequest


def parse(body: dict[str, Any], *, lenient: bool) -> EmbedRequest:
    """The request. Raises EmbedserveError (400) in the original's words."""
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise EmbedserveError(
            'Required parameter "model" missing from request.', code="BadRequest.EmptyModel"
        )
    find_model(model)  # an unknown model is reported before anything about the input, as the original does
    given = body.get("input")
    if given is None:
        raise EmbedserveError("Required input parameter missing from request.", code="BadRequest.EmptyInput")
    parameters = body.get("parameters")
    if parameters is None:
        parameters = {}
    if not isinstance(given, dict) or not isinstance(parameters, dict):
        raise EmbedserveError("The input parameter requires json format.", code="BadRequest.IllegalInput")
    if given.get("texts") is None:
        raise missing_field()
    instruct = parameters.get("instruct")
    if instruct is not None and not isinstance(instruct, str):
        raise invalid_input("Value error, instruct should be a string.: parameters.instruct")
    return EmbedRequest(
        model,
        check_rows(given["texts"], lenient=lenient),
        text_type=choice(parameters, "text_type", ("query", "document"), None),
        instruct=instruct,
        dimension=integer(parameters, "dimension"),
        output_type=choice(parameters, "output_type", ("dense", "sparse", "dense&sparse"), "dense"),
        truncate=choice(parameters, "truncate", ("none", "start", "end"), "none") if lenient else "none",
    )
