"""iALS: 12 exact sweeps at 192 factors on the NCF split, beside implicit's exact solver in its own environment.

    python benchmarks/ials_speed.py --data-dir ../shared/data

Both sides fit from the matrix to the last sweep and alternate; implicit's BLAS has one thread and its own pool as many
as we have.  Every fit is a line of results/ials_speed.jsonl.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import splits
import torch
from common import Peer, append, environment, median, parser, stamp

import suisen as su
from suisen.training.trainer import fit

FILE = "ials_speed.jsonl"
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def main() -> int:
    """Rounds of one fit a side."""
    made = parser(__doc__ or "")
    made.add_argument("--sweeps", type=int, default=12)
    made.add_argument("--dim", type=int, default=192)
    options = made.parse_args()
    torch.set_num_threads(options.threads)
    train = splits.ncf(options.data_dir).train
    model = su.IALS(dim=options.dim, epochs=options.sweeps)
    python = environment("implicit", ["implicit==0.7.3"])
    with tempfile.TemporaryDirectory() as folder:
        pairs = torch.stack([train.user, train.events.item], 1).numpy()
        np.save(Path(folder) / "pairs.npy", pairs)
        peer = Peer(python, Path(__file__).with_name("peer_implicit.py"), f"{folder}/pairs.npy", env=ONE_THREAD)
        facts = {"params": asdict(model), "peer": f"implicit {peer.facts['version']}, use_cg=False", **stamp()}
        facts |= {"threads": options.threads, "run": time.strftime("%Y%m%dT%H%M%S", time.gmtime())}

        def ours() -> float:
            started = time.perf_counter()
            fit(model, train)
            return time.perf_counter() - started

        def theirs() -> float:
            return peer.ask(factors=options.dim, sweeps=options.sweeps, threads=options.threads)["seconds"]

        seconds: dict[str, list[float]] = {"ours": [], "implicit": []}
        for number in range(options.rounds):
            order = [("ours", ours), ("implicit", theirs)]
            for side, run in order if number % 2 == 0 else order[::-1]:
                seconds[side].append(run())
                append(FILE, {"round": number, "side": side, "seconds": round(seconds[side][-1], 3), **facts})
                print(f"{side}: {options.sweeps} sweeps in {seconds[side][-1]:.2f} s", flush=True)
        peer.close()
    ratio = median(seconds["implicit"]) / median(seconds["ours"])
    print(f"iALS, {options.dim} factors: {ratio:.2f}x implicit's speed (target 1x)", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
