"""the HTTP service: app, messages, event log, telemetry, server"""
