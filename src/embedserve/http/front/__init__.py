"""The front: what happens to a connection before it is a request, and after its reply.

uvicorn accepts and runs the loop; :class:`~embedserve.http.front.gate.Gate` gives it our protocol instead of
its own (docs/decisions/transport.md says why). What handlers may use of it is
:class:`~embedserve.http.front.hook.Hook`, in the ASGI scope; served by another server, there is none.
"""
