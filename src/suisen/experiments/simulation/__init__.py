"""Worlds whose true effects are known, and experiments repeated in them: the proofs of the tests."""
