"""The model of a Triton repository: requests of the python backend in, lists of ``exported.Exported`` out.

``suisen export --to triton`` copies this file beside ``exported.py`` and ``config.pbtxt``, which says what each input
and output is.  Requests that Triton hands over together, and that ask for lists of one length, are answered in one
call.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np

MOST = 10_000
"""Items per list."""
LOWEST = float(np.finfo(np.float32).min)
"""Score of a place without an item: JSON has no infinity."""


class TritonPythonModel:
    """What Triton's python backend asks a model to be."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the folder ``data`` beside this file."""
        here = Path(args["model_repository"]) / args["model_version"]
        sys.path.insert(0, str(here))
        self.triton: Any = importlib.import_module("triton_python_backend_utils")
        self.exported = importlib.import_module("exported").Exported(here / "data")

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request, in their order."""
        responses: list[Any] = [None] * len(requests)
        alike: dict[tuple[int, bool | None], list[tuple[int, list[Any], list[Any]]]] = {}
        for place, request in enumerate(requests):
            try:
                settings, users, histories = self._read(request)
                alike.setdefault(settings, []).append((place, users, histories))
            except ValueError as error:
                responses[place] = self._refused(str(error))
        for (k, seen), group in alike.items():
            users = [user for _, some, _ in group for user in some]
            histories = [history for _, _, some in group for history in some]
            found = self.exported.answer(users, histories, k, exclude_seen=seen)
            start = 0
            for place, some, _ in group:
                end = start + len(some)
                parts = (found.items[start:end], found.scores[start:end], found.by[start:end])
                responses[place], start = self._response(k, *parts), end
        return responses

    def _read(self, request: Any) -> tuple[tuple[int, bool | None], list[Any], list[Any]]:
        """(k, exclude_seen), users and histories of a request's B rows.  Raises ValueError naming the input."""
        users = self._texts(request, "user_id")
        rows = None if users is None else [row[0] for row in users]
        histories = self._texts(request, "history")
        if rows is None and histories is None:
            raise ValueError("nobody is asked for; give user_id, history or both")
        size = len(histories or ()) if rows is None else len(rows)
        k, seen = (self._one(request, name) for name in ("k", "exclude_seen"))
        k = 10 if k is None else int(k)
        if not 1 <= k <= MOST:
            raise ValueError(f"k = {k} must be from 1 to {MOST}")
        given = [None] * size if histories is None else [[item for item in row if item] or None for row in histories]
        return (k, None if seen is None else bool(seen)), rows or [None] * size, given

    def _texts(self, request: Any, name: str) -> list[list[str]] | None:
        """(B, …) texts of an input; None where it is not given."""
        tensor = self.triton.get_input_tensor_by_name(request, name)
        if tensor is None:
            return None
        try:
            return [[text.decode("utf-8") for text in row] for row in tensor.as_numpy().tolist()]
        except UnicodeDecodeError as error:
            raise ValueError(f"{name} is not UTF-8 ({error})") from None

    def _one(self, request: Any, name: str) -> Any:
        """The value that all rows of an input share; None where it is not given."""
        tensor = self.triton.get_input_tensor_by_name(request, name)
        if tensor is None:
            return None
        values = set(tensor.as_numpy().reshape(-1).tolist())
        if len(values) != 1:
            raise ValueError(f"{name} differs between the rows of a request; send those apart")
        return values.pop()

    def _response(self, k: int, items: list[list[str]], scores: list[list[float]], by: list[str]) -> Any:
        texts, values = np.full((len(items), k), b"", dtype=object), np.full((len(items), k), LOWEST, np.float32)
        for row, (some, numbers) in enumerate(zip(items, scores, strict=True)):
            texts[row, : len(some)] = [item.encode("utf-8") for item in some]
            values[row, : len(numbers)] = numbers
        outputs = {
            "item_id": texts,
            "score": values,
            "answered_by": np.array([[one.encode()] for one in by], dtype=object),
            "version": np.full((len(items), 1), self.exported.about["version"].encode("utf-8"), dtype=object),
        }
        tensors = [self.triton.Tensor(name, values) for name, values in outputs.items()]
        return self.triton.InferenceResponse(output_tensors=tensors)

    def _refused(self, why: str) -> Any:
        return self.triton.InferenceResponse(output_tensors=[], error=self.triton.TritonError(why))
