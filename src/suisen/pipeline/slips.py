"""Arguments of the verbs that are something else than was meant: one line that says what to give instead."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from suisen.arguments import shown, whole
from suisen.data.batch import Queries
from suisen.data.dataset import Dataset, Split
from suisen.data.log import Log
from suisen.data.ordered import OrderedLog
from suisen.errors import InputError
from suisen.evaluation import Report
from suisen.models import MODELS, RANKERS, SECOND_STAGES
from suisen.recommending.sources import Sourced, check_quotas
from suisen.recommending.standin import stands_in
from suisen.training.options import RunOptions


def check_model(field: str, value: Any, ranks: bool = False) -> None:
    """Raises InputError for what is no model, for its name and its class; ``ranks``: for what is no second stage."""
    if value is None:
        return
    call = "Recommender({}())" if field == "retriever" else f"Recommender({field}={{}}())"
    if isinstance(value, type) and value in MODELS.values():
        made = call.format(value.__name__)
        raise InputError(f"{field} = {shown(value)} itself; make a model of it: {made}")
    if isinstance(value, str):
        raise InputError(f"{field} = {value!r} is a name; give the model: {call.format(f'suisen.{_nearest(value)}')}")
    if isinstance(value, type) or not all(callable(getattr(value, verb, None)) for verb in ("build", "phases")):
        raise InputError(f"{field} = {shown(value)} is no model; give one, like {call.format('suisen.EASE')}")
    name = type(value).__name__
    if ranks and type(value) in MODELS.values() and type(value) not in SECOND_STAGES.values():
        raise InputError(f"ranker = {name} scores the whole catalogue only; rankers are {', '.join(SECOND_STAGES)}")
    if field == "retriever" and type(value) in RANKERS.values():
        raise InputError(f"retriever = {name}() is a ranker; give it by name: Recommender(ranker={name}())")


def check_pair_features(words: tuple[str, ...], retriever: Any, ranker: Any) -> None:
    """Raises InputError where no ranker reads features of pairs that a retriever found."""
    if not words:
        return
    if retriever is None or ranker is None:
        raise InputError(
            f"pair_features = {shown(list(words))} needs a retriever and a ranker; give both, or leave it out"
        )
    if stands_in(ranker):
        name = type(ranker).__name__
        raise InputError(
            f"pair_features = {shown(list(words))}: ranker = {name} is a retriever and reads none; rank with DeepFM"
        )


def check_sources(value: Any) -> Sourced:
    """The model of a first stage, of several sources a tuple of them; a list of one is that one.

    Raises InputError for what is no model, for an empty list, and for two sources alike.
    """
    if not isinstance(value, list | tuple):
        check_model("retriever", value)
        return value  # type: ignore[no-any-return]
    if not value:
        raise InputError("retriever = [] names no source; give models, like Recommender([suisen.EASE(), suisen.MF()])")
    for at, model in enumerate(value):
        if model is None:
            raise InputError(f"retriever: source {at + 1} is None; give a model")
        check_model("retriever", model)
        if model in value[:at]:
            alike = f"sources {value.index(model) + 1} and {at + 1} are both {model!r}"
            raise InputError(f"retriever: {alike}, which would find everything twice; leave one out, or change it")
    return value[0] if len(value) == 1 else tuple(value)


def checked_quotas(value: Any, sources: Sequence[str], candidates: int) -> dict[str, int]:
    """Quotas of the sources named.  Raises InputError naming the one that cannot be kept."""
    if not isinstance(value, Mapping | None):
        raise InputError(f"quotas = {shown(value)} must be source → candidates, like quotas={{'ease': 200}}")
    quotas = {name: whole(f"quotas: {name}", quota) for name, quota in (value or {}).items()}
    check_quotas(quotas, sources, candidates)
    return quotas


def _nearest(name: str) -> str:
    """The class of the model that a name means."""
    plain = {known.replace("-", "").lower(): cls.__name__ for known, cls in MODELS.items()}
    found = difflib.get_close_matches("".join(sign for sign in name.lower() if sign.isalnum()), plain, n=1, cutoff=0.5)
    return plain[found[0]] if found else "EASE"


_NO_TRAIN: dict[Any, str] = {
    Split: "fit takes the parts of a split; give fit(split.train, split.valid)",
    Queries: "fit was given queries, which a model is measured on; learn from split.train",
    Log | OrderedLog: "train is a log and no Dataset; make one: suisen.Dataset.of(log)",
    str | Path: "train is a path; read it: suisen.Dataset.from_path(path)",
    object: "train is no Dataset; make one of a table of events: suisen.Dataset.from_frame(table)",
}
"""What is said of each kind that is no Dataset; the first that fits counts."""


def check_train(value: Any) -> None:
    """Raises InputError for what no model can learn from."""
    if not isinstance(value, Dataset):
        said = next(said for kind, said in _NO_TRAIN.items() if isinstance(value, kind))
        raise InputError(f"train = {shown(value)}: {said}")


def check_fit(train: Any, valid: Any, options: Any) -> None:
    """Raises InputError for an argument of ``fit`` that is something else."""
    check_train(train)
    if isinstance(valid, RunOptions):
        raise InputError("valid = RunOptions(…) are options; give them by name: fit(train, options=RunOptions(…))")
    if valid is not None:
        check_queries("valid", valid, "fit(split.train, split.valid)")
    if not isinstance(options, RunOptions | None):
        raise InputError(f"options = {shown(options)} are no options; give suisen.RunOptions(patience=5)")


def check_queries(field: str, value: Any, mend: str = "") -> None:
    """Raises InputError for what are no queries; ``mend``: the call as it should be."""
    if isinstance(value, Queries):
        return
    mend = mend or "give split.test"
    if isinstance(value, Split):
        raise InputError(f"{field} is a whole Split; give its part: {mend.removeprefix('give ')}")
    if isinstance(value, Dataset):
        raise InputError(f"{field} = {shown(value)} is a Dataset, which models learn from; queries are asked: {mend}")
    if value is None:
        raise InputError(f"{field} = None: the split holds nothing out for it; give split.test, or split with valid=1")
    raise InputError(f"{field} = {shown(value)} are no queries; split the events first: {mend}")


def check_scorer(value: Any) -> None:
    """Raises InputError for what cannot be measured."""
    if isinstance(value, str | Path):
        raise InputError(f"recommender = {shown(value)} is a path; load it: evaluate(suisen.load(path), split.test)")
    if isinstance(value, Queries | Split | Dataset | Report | type) or not hasattr(value, "score"):
        model = (isinstance(value, type) and value in MODELS.values()) or type(value) in MODELS.values()
        name = value.__name__ if isinstance(value, type) else type(value).__name__
        made = f"Recommender({name if model else 'suisen.EASE'}()).fit(split.train)"
        raise InputError(f"recommender = {shown(value)} recommends nothing yet; fit one first: {made}")


def path_of(field: str, value: Any) -> Path:
    """A path.  Raises InputError for what is none."""
    if not isinstance(value, str | Path):
        raise InputError(f"{field} = {shown(value)} is no path; give a folder's path")
    return Path(value)
