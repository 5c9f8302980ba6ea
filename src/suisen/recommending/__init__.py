"""What answers: engine, requests, store, bundle, parity; nothing here trains or measures."""
