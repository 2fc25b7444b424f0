#!/usr/bin/env python
"""Runs ``benchmarks`` from a checkout: ``tools/benchmark.py --help``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.__main__ import main
from cellseg_d2.commands.cli import run_tool

if __name__ == "__main__":
    sys.exit(run_tool(main))
