"""The contract, then one file per model; adding one means a file, its test and a line here."""

from typing import Any

from suisen.errors import unknown
from suisen.models.bert4rec import BERT4Rec
from suisen.models.contract import CatalogueScorer, Model, Net, Ranker, Retriever, network_of
from suisen.models.dcn import DCNv2
from suisen.models.deepfm import DeepFM
from suisen.models.din import DIN
from suisen.models.dnn import DNN
from suisen.models.ease import EASE
from suisen.models.ffm import FFM
from suisen.models.fm import FM
from suisen.models.gmf import GMF
from suisen.models.gru4rec import GRU4Rec
from suisen.models.ials import IALS
from suisen.models.item_knn import ItemKNN
from suisen.models.lambdamart import LambdaMART
from suisen.models.lightgcn import LightGCN
from suisen.models.mf import MF
from suisen.models.mlp import MLP
from suisen.models.neumf import NeuMF
from suisen.models.popularity import Popularity
from suisen.models.sasrec import SASRec
from suisen.models.two_tower import TwoTower
from suisen.models.wide_deep import WideDeep

RETRIEVERS: dict[str, type[Any]] = {
    "popularity": Popularity,
    "ease": EASE,
    "ials": IALS,
    "item-knn": ItemKNN,
    "mf": MF,
    "gmf": GMF,
    "two-tower": TwoTower,
    "gru4rec": GRU4Rec,
    "sasrec": SASRec,
    "bert4rec": BERT4Rec,
    "lightgcn": LightGCN,
}
"""By the name the command line and the manifest use."""

RANKERS: dict[str, type[Any]] = {
    "mlp": MLP,
    "neumf": NeuMF,
    "fm": FM,
    "deepfm": DeepFM,
    "din": DIN,
    "wide-deep": WideDeep,
    "dnn": DNN,
    "ffm": FFM,
    "dcn-v2": DCNv2,
    "lambdamart": LambdaMART,
}

MODELS = RETRIEVERS | RANKERS

SECOND_STAGES = {name: cls for name, cls in (RANKERS | RETRIEVERS).items() if network_of(cls).second_stage}
"""What can rank: the rankers, and retrievers with vectors standing in for one (``Net.second_stage``)."""


def name_of(model: Model) -> str:
    """The model's name in the manifest and on the command line."""
    for name, cls in MODELS.items():
        if type(model) is cls:
            return name
    raise unknown("model", type(model).__name__, [cls.__name__ for cls in MODELS.values()])


def model_of(name: str, **hyper: Any) -> Any:
    """The model of that name with these hyper-parameters, validated."""
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    return MODELS[name](**hyper)
