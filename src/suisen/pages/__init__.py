"""Pages for people: the report of a run and the page of an experiment, with one chart engine."""
