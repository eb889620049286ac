"""Reports: one folder with tables, figures, contact sheets and a report.md that ties them together."""

from revelio_fast.report.contact import ContactSheets
from revelio_fast.report.findings import findings
from revelio_fast.report.summary import Baseline, DiffCRun, LayerRun, LoadImage, RunSummary
from revelio_fast.report.tables import Table, all_tables
from revelio_fast.report.versions import versions
from revelio_fast.report.write import write_report

__all__ = [
    "Baseline",
    "ContactSheets",
    "DiffCRun",
    "LayerRun",
    "LoadImage",
    "RunSummary",
    "Table",
    "all_tables",
    "findings",
    "versions",
    "write_report",
]
