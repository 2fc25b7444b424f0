#!/usr/bin/env python
"""Prints what a bug report needs about this installation, and what is wrong with it; exit code 1 if something is."""

from __future__ import annotations

import argparse
import sys

from cellseg_d2 import doctor


def main() -> int:
    argparse.ArgumentParser(description=__doc__).parse_args()
    report = doctor.examine()
    print("\n".join(report.lines))
    if not report.problems:
        print("\nNo problem found.")
        return 0
    print(f"\nProblems found: {len(report.problems)}")
    for problem in report.problems:
        print(f"- {problem.what}\n  mend: {problem.mend}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
