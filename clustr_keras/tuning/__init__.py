"""Search for hyperparameters with KerasTuner: what may vary, what counts, and how trials compare.

Needs the extra `tuning`.
"""

from clustr_keras.tuning.hypermodel import ClustrHyperModel
from clustr_keras.tuning.leaderboard import Leaderboard
from clustr_keras.tuning.objectives import OBJECTIVES, make_objective
from clustr_keras.tuning.search import make_tuner, saving_atomically

__all__ = ["OBJECTIVES", "ClustrHyperModel", "Leaderboard", "make_objective", "make_tuner", "saving_atomically"]
