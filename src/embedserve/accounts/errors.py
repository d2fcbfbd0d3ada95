"""What a caller without the right key hears, in each dialect's words (protocol notes 1.2)."""

from __future__ import annotations

from embedserve.errors import EmbedserveError

HELP = "https://help.aliyun.com/zh/model-studio/error-code"


def missing_key() -> EmbedserveError:
    return EmbedserveError(
        "No API-key provided.",
        status=401,
        code="InvalidApiKey",
        openai_code="invalid_api_key",
        openai_type="invalid_request_error",
        openai_message="You didn't provide an API key. You need to provide your API key in an Authorization "
        "header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY).",
    )


def wrong_key() -> EmbedserveError:
    return EmbedserveError(
        "Invalid API-key provided.",
        status=401,
        code="InvalidApiKey",
        openai_code="invalid_api_key",
        openai_type="invalid_request_error",
        openai_message=f"Incorrect API key provided. For details, see: {HELP}#apikey-error",
    )
