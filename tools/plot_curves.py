#!/usr/bin/env python
"""Draws the loss and AP curves of a training from its metrics.json."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from cellseg_d2.cli import ToolParser, run_tool
from cellseg_d2.report.curves import plot_curves


def main(argv: Sequence[str] | None = None) -> None:
    parser = ToolParser(__doc__)
    parser.add_argument("--metrics", type=Path, required=True, help="OUTPUT_DIR/metrics.json of a training")
    parser.add_argument("--output", type=Path, required=True, metavar="PNG")
    args = parser.parse_args(argv)
    plot_curves(args.metrics, args.output)
    print(f"picture: {args.output}")


if __name__ == "__main__":
    sys.exit(run_tool(main))
