"""The configuration of a run: its sections, and reading it from YAML with errors that name the line."""

from revelio_fast.config.errors import ConfigError
from revelio_fast.config.sections import (
    BaselineSection,
    DiffCSection,
    PurityConfig,
    ReportSection,
    RunConfig,
    SourceOptions,
    SourceSection,
)
from revelio_fast.config.yaml_file import load_config, parse_config

__all__ = [
    "BaselineSection",
    "ConfigError",
    "DiffCSection",
    "PurityConfig",
    "ReportSection",
    "RunConfig",
    "SourceOptions",
    "SourceSection",
    "load_config",
    "parse_config",
]
