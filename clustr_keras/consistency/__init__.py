"""Training terms that ask an image and its adversarial twin for the same answer."""

from clustr_keras.consistency.embedding import EmbeddingConsistency
from clustr_keras.consistency.free import FreeAdversarialTraining
from clustr_keras.consistency.qtrades import QTRADES
from clustr_keras.consistency.term import ConsistencyTerm
from clustr_keras.consistency.trades import TRADES

__all__ = ["QTRADES", "TRADES", "ConsistencyTerm", "EmbeddingConsistency", "FreeAdversarialTraining"]
