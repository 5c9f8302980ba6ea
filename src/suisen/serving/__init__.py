"""The HTTP service: app, endpoints, event log, telemetry, server.  It needs the extra ``serve``."""

from suisen.errors import need_extra

need_extra("serve", "msgspec", "uvicorn", "httptools", "prometheus_client")
