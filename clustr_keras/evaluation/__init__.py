"""What a classifier is worth: certified accuracy, robust accuracy, audits and the report on them."""

from clustr_keras.evaluation.audit import AuditResult, Violation, audit, default_attacks
from clustr_keras.evaluation.broken import BrokenCertificate
from clustr_keras.evaluation.diagnostics import Diagnostic, Diagnostics
from clustr_keras.evaluation.evaluate import Evaluation, evaluate
from clustr_keras.evaluation.evaluation_report import write_evaluation
from clustr_keras.evaluation.reach import ReachResult, reach
from clustr_keras.evaluation.report import Report, RobustAccuracy, certified_accuracy_curve, write_report
from clustr_keras.evaluation.suite import ATTACKS, DEFAULT_ATTACKS, attack_suite
from clustr_keras.evaluation.surrogate import train_surrogate
from clustr_keras.evaluation.target import Target, as_target
from clustr_keras.evaluation.threat_model import DEFAULT_THREAT_MODELS, ThreatModel

__all__ = [
    "ATTACKS",
    "DEFAULT_ATTACKS",
    "DEFAULT_THREAT_MODELS",
    "AuditResult",
    "BrokenCertificate",
    "Diagnostic",
    "Diagnostics",
    "Evaluation",
    "ReachResult",
    "Report",
    "RobustAccuracy",
    "Target",
    "ThreatModel",
    "Violation",
    "as_target",
    "attack_suite",
    "audit",
    "certified_accuracy_curve",
    "default_attacks",
    "evaluate",
    "reach",
    "train_surrogate",
    "write_evaluation",
    "write_report",
]
