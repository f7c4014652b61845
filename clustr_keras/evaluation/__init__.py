"""What a classifier is worth: certified accuracy, robust accuracy, audits and the report on them."""

from clustr_keras.evaluation.audit import AuditResult, Violation, audit, default_attacks
from clustr_keras.evaluation.reach import ReachResult, reach
from clustr_keras.evaluation.report import Report, RobustAccuracy, certified_accuracy_curve, write_report

__all__ = [
    "AuditResult",
    "ReachResult",
    "Report",
    "RobustAccuracy",
    "Violation",
    "audit",
    "certified_accuracy_curve",
    "default_attacks",
    "reach",
    "write_report",
]
