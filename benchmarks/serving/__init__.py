"""The fast answer, measured over HTTP and in process: ``make bench-serving``; each file says what it measures."""
