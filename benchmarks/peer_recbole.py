"""RecBole's evaluator in its own environment, over vectors that are given: one evaluation a question.

Questions: topk, batch (eval_batch_size; 0: RecBole's default).  Answers: seconds, most bytes resident meanwhile.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path

import torch

plain_load = torch.load
torch.load = lambda *a, **k: plain_load(*a, **{**k, "weights_only": False})  # RecBole 1.2.1 is older than that default

import numpy as np  # noqa: E402
import recbole  # noqa: E402
from recbole.config import Config  # noqa: E402
from recbole.data import create_dataset, data_preparation  # noqa: E402
from recbole.model.general_recommender import BPR  # noqa: E402
from recbole.trainer import Trainer  # noqa: E402


def status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    return 0


class Evaluator:
    """One configuration of RecBole: its own data, model and trainer."""

    def __init__(self, folder: str, topk: list[int], batch: int) -> None:
        settings = {
            "data_path": folder,
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "eval_args": {
                "split": {"LS": "valid_and_test"},
                "order": "TO",
                "group_by": "user",
                "mode": "full",
            },
            "topk": topk,
            "metrics": ["Recall", "MRR", "NDCG", "Hit", "Precision"],
            "valid_metric": f"MRR@{topk[0]}",
            "embedding_size": int(sys.argv[2]),
            "show_progress": False,
            "use_gpu": False,
            "checkpoint_dir": folder,
            **({"eval_batch_size": batch} if batch else {}),
        }
        config = Config(model="BPR", dataset="ml", config_dict=settings)
        self.batch = config["eval_batch_size"]
        dataset = create_dataset(config)
        train, _valid, self.test = data_preparation(config, dataset)
        model = BPR(config, train.dataset)
        users, items = np.load(f"{folder}/users.npy"), np.load(f"{folder}/items.npy")
        with torch.no_grad():
            for table, field, rows in (
                (model.user_embedding, "user_id", users),
                (model.item_embedding, "item_id", items),
            ):
                tokens = [str(i) for i in range(1, len(rows))]
                table.weight[dataset.token2id(field, np.array(tokens))] = torch.from_numpy(rows[1:])
        self.trainer = Trainer(config, model)

    def run(self) -> dict[str, object]:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        started = time.perf_counter()
        result = self.trainer.evaluate(self.test, load_best_model=False, show_progress=False)
        seconds = time.perf_counter() - started
        metrics = {name: float(value) for name, value in result.items()}
        return {"seconds": seconds, "resident_bytes": status("VmHWM"), "metrics": metrics, "batch": self.batch}


def main() -> None:
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(int(sys.argv[3]))
    made: dict[str, Evaluator] = {}
    print(json.dumps({"version": recbole.__version__}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        key = json.dumps(asked)
        if key not in made:
            made[key] = Evaluator(sys.argv[1], asked["topk"], asked["batch"])
        print(json.dumps(made[key].run()), flush=True)


if __name__ == "__main__":
    main()
