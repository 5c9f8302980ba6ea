"""A server under attack for minutes: what is asked of it, what is done to it, and what became of each request."""
