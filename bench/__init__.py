"""Speed, measured: `python -m bench NAME --json FILE` (see docs/performance.md for the rules and the results)."""
