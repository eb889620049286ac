"""The whole pipeline: images -> features -> k-SAE -> top images -> purity, baselines, Diff-C -> report."""

from revelio_fast.pipeline.stages import Stage, Stages
from revelio_fast.pipeline.whole_run import RunResult, run

__all__ = ["RunResult", "Stage", "Stages", "run"]
