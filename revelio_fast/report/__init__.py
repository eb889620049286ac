"""Reports: one folder with tables, figures, contact sheets and a report.md that ties them together."""

from revelio_fast.report.summary import Baseline, DiffCRun, LayerRun, LoadImage, RunSummary

__all__ = ["Baseline", "DiffCRun", "LayerRun", "LoadImage", "RunSummary"]
