"""What the fork server imports once, so that its children need not."""

import uvicorn
import uvicorn.loops.auto
import uvicorn.protocols.http.auto  # noqa: F401

import embedserve.accounts.accounts
import embedserve.cli.embed
import embedserve.cli.serve
import embedserve.files.job
import embedserve.files.table_output
import embedserve.http.app
import embedserve.service  # noqa: F401
import light_server  # noqa: F401
