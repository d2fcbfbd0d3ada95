"""An OpenAI-mode body to an :class:`EmbedRequest`."""

from __future__ import annotations

from typing import Any, Literal

from embedserve.catalogue import find_model
from embedserve.errors import EmbedserveError, invalid_input, missing_field
from embedserve.http.fields import check_rows, choice, integer, is_ids
from embedserve.service import EmbedRequest

Encoding = Literal["float", "base64"]


def parse(body: dict[str, Any], *, lenient: bool) -> tuple[EmbedRequest, Encoding]:
    """The request, and how the caller wants the numbers.

    In lenient mode the extension fields ``text_type``, ``instruct``, ``output_type`` and ``truncate`` count;
    in strict mode ``output_type=sparse`` alone has an effect, the original's (:func:`wants_nothing`).

    Raises:
        EmbedserveError: 400.
    """
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise EmbedserveError(
            "you must provide a model parameter",
            openai_code="invalid_request_error",
            openai_type="invalid_request_error",
        )
    find_model(model)  # an unknown model is reported before anything about the input, as the original does
    given = body.get("input")
    if given is None:
        raise missing_field()
    rows = check_rows(token_array(given) if lenient else given, lenient=lenient)
    encoding: Encoding = choice(body, "encoding_format", ("float", "base64"), "float")
    if not lenient:
        return EmbedRequest(model, rows, dimension=integer(body, "dimensions")), encoding
    instruct = body.get("instruct")
    if instruct is not None and not isinstance(instruct, str):
        raise invalid_input("Value error, instruct should be a string.: instruct")
    return EmbedRequest(
        model,
        rows,
        text_type=choice(body, "text_type", ("query", "document"), None),
        instruct=instruct,
        dimension=integer(body, "dimensions"),
        output_type=choice(body, "output_type", ("dense", "sparse", "dense&sparse"), "dense"),
        truncate=choice(body, "truncate", ("none", "start", "end"), "none"),
    ), encoding


def token_array(given: Any) -> Any:
    """OpenAI's short form for one tokenised text, ``[1, 2, 3]``, is one row."""
    return [given] if is_ids(given) else given


def wants_nothing(body: dict[str, Any]) -> bool:
    """Sparse in OpenAI mode: the original answers 200 with empty embeddings (protocol notes 2.2)."""
    return body.get("output_type") == "sparse"
