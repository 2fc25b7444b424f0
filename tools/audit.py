#!/usr/bin/env python
"""``cellseg-d2 audit`` from a checkout."""

import sys

from cellseg_d2.commands.audit import main
from cellseg_d2.commands.cli import run_tool

if __name__ == "__main__":
    sys.exit(run_tool(main))
