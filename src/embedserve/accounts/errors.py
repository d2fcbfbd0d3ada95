"""What a caller hears when keys, limits or money stand in the way, in each dialect's words.

The texts are the original's (protocol notes 1.2 and 5): clients match on them. All of these are raised by
the original's gateway, so in OpenAI mode they carry ``request_id`` and no ``id``.
"""

from __future__ import annotations

import math

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
    """Unknown, expired or revoked: the caller is not told which."""
    return EmbedserveError(
        "Invalid API-key provided.",
        status=401,
        code="InvalidApiKey",
        openai_code="invalid_api_key",
        openai_type="invalid_request_error",
        openai_message=f"Incorrect API key provided. For details, see: {HELP}#apikey-error",
    )


def key_unchecked() -> EmbedserveError:
    """Not known here, and the database that would know does not answer: no 401, on which clients give up."""
    return EmbedserveError(
        "The API-key is not known to this server, and the database did not answer in time to look it up; "
        "please try again later.",
        status=503,
        code="ModelServingError",
        retry_after=1,
    )


def too_many_workspaces(limit: int) -> EmbedserveError:
    """Every workspace is a row of the ledger and a label of the metrics: no key may invent them for ever."""
    return EmbedserveError(
        f"This key has named {limit} workspaces today, and may name no more until midnight UTC: use the "
        "workspaces there are, or have the operator raise EMBEDSERVE_MAX_WORKSPACES.",
        status=403,
        code="AccessDenied",
        openai_code="access_denied",
    )


def key_ended() -> EmbedserveError:
    """The key that submitted a job, when its turn comes. Who asks for the job holds another key of the same
    workspace, and may know."""
    return EmbedserveError(
        "The API-key that submitted this job was revoked or paused, or has expired: submit it again with "
        "another key. What was done until then is kept.",
        status=401,
        code="InvalidApiKey",
        openai_code="invalid_api_key",
        openai_type="invalid_request_error",
    )


def ends_the_work(error: EmbedserveError) -> bool:
    """Whether an error is about the key or its money, so that whatever follows would meet it too."""
    return error.code in ("InvalidApiKey", "Arrearage")


def foreign_workspace() -> EmbedserveError:
    """Not the key's workspace, or none at all: one answer for both, so that nobody can probe for names."""
    return EmbedserveError(
        "Access denied: Either you are not authorized to access this workspace, or the workspace does not "
        "exist. Please:\\nVerify the workspace configuration.\\nCheck your API endpoint settings. "
        "Ensure you are targeting the correct environment.",
        status=401,
        code="NOT AUTHORIZED",
    )


def malformed_workspace() -> EmbedserveError:
    """An id that no workspace can have."""
    return EmbedserveError("WorkSpace can not be found.", status=404, code="WorkSpaceNotFound")


def model_denied() -> EmbedserveError:
    """The model is not on the key's allow-list."""
    return EmbedserveError("Access denied.", status=403, code="AccessDenied", openai_code="access_denied")


def too_many_requests(retry_after: float) -> EmbedserveError:
    """RPM, or its share of this second, is used up."""
    return EmbedserveError(
        "Requests rate limit exceeded, please try again later.",
        status=429,
        code="Throttling.RateQuota",
        openai_code="limit_requests",
        openai_message=f"You have exceeded your current request limit. For details, see: {HELP}#rate-limit",
        retry_after=max(1, math.ceil(retry_after)),
    )


def too_many_tokens(retry_after: float) -> EmbedserveError:
    """TPM, or its share of this second, is used up. ``insufficient_quota`` is not about money here."""
    return EmbedserveError(
        "Allocated quota exceeded, please increase your quota limit.",
        status=429,
        code="Throttling.AllocationQuota",
        openai_code="insufficient_quota",
        openai_message="You exceeded your current quota, please check your plan and billing details.",
        retry_after=max(1, math.ceil(retry_after)),
    )


def free_tier_exhausted() -> EmbedserveError:
    return EmbedserveError(
        "The free tier of the model has been exhausted. If you wish to continue access the model on a paid "
        'basis, please disable the "use free tier only" mode in the management console.',
        status=403,
        code="AllocationQuota.FreeTierOnly",
    )


def arrearage() -> EmbedserveError:
    """The key's budget is spent. 400 and not 402: so does the original."""
    message = "Access denied, please make sure your account is in good standing."
    return EmbedserveError(
        message,
        code="Arrearage",
        openai_message=f"{message} For details, see: {HELP}#overdue-payment",
    )


def ledger_unavailable(timeout: float) -> EmbedserveError:
    """Work that cannot be written down is not answered, and then not billed either."""
    return EmbedserveError(
        f"The usage ledger did not answer within {timeout:g} s; nothing was billed, please try again later.",
        status=503,
        code="ModelServingError",
        retry_after=1,
    )
