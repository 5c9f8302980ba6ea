"""Rules of the last stage: which items a list may hold, and how what the models ranked becomes what is shown."""
