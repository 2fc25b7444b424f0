#!/usr/bin/env python
"""``cellseg-d2 crossval`` from a checkout."""

import sys

from cellseg_d2.commands.cli import run_tool
from cellseg_d2.commands.crossval import main

if __name__ == "__main__":
    sys.exit(run_tool(main))
