"""From a configuration to a run in its folder; no command line is needed, so any launcher can call it."""
