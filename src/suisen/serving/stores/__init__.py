"""Stores that several servers share, each in the file that wraps its library; a server without them is whole."""
