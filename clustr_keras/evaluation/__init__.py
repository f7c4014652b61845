"""What a classifier is worth: certified accuracy, robust accuracy, audits and the report on them."""

from clustr_keras.evaluation.audit import AuditResult, audit
from clustr_keras.evaluation.report import Report, RobustAccuracy, certified_accuracy_curve, write_report

__all__ = ["AuditResult", "Report", "RobustAccuracy", "audit", "certified_accuracy_curve", "write_report"]
