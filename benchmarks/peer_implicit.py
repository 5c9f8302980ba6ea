"""implicit's exact ALS in its own environment: one fit a question (see ``common.Peer``)."""

from __future__ import annotations

import json
import sys
import time

import implicit
import numpy as np
import scipy.sparse as sp
from implicit.cpu.als import AlternatingLeastSquares


def main() -> None:
    pairs = np.load(sys.argv[1])
    shape = tuple(pairs.max(0) + 1)
    matrix = sp.csr_matrix((np.ones(len(pairs), dtype=np.float32), (pairs[:, 0], pairs[:, 1])), shape=shape)
    print(json.dumps({"version": implicit.__version__, "shape": [int(n) for n in shape]}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        model = AlternatingLeastSquares(
            factors=asked["factors"],
            regularization=0.01,
            iterations=asked["sweeps"],
            use_native=True,
            use_cg=False,
            num_threads=asked["threads"],
            random_state=0,
        )
        started = time.perf_counter()
        model.fit(matrix, show_progress=False)
        seconds = time.perf_counter() - started
        found = float((model.user_factors[pairs[:, 0]] * model.item_factors[pairs[:, 1]]).sum(1).mean())
        print(json.dumps({"seconds": seconds, "mean_score_of_taken": found}), flush=True)


if __name__ == "__main__":
    main()
