"""Reports: one folder with tables, figures, contact sheets and a report.md that ties them together."""

from revelio_fast.report.comparisons import Comparison, comparisons
from revelio_fast.report.contact import ContactSheets
from revelio_fast.report.findings import findings
from revelio_fast.report.records import ClassifierResult, FeatureResult, LoadImage, RunSummary
from revelio_fast.report.table import Table
from revelio_fast.report.tables import all_tables
from revelio_fast.report.versions import versions
from revelio_fast.report.write import write_report

__all__ = [
    "ClassifierResult",
    "Comparison",
    "ContactSheets",
    "FeatureResult",
    "LoadImage",
    "RunSummary",
    "Table",
    "all_tables",
    "comparisons",
    "findings",
    "versions",
    "write_report",
]
