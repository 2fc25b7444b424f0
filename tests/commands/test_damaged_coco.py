"""Ground truth and results that were damaged at random: one line and exit code 2, or numbers; never a traceback."""

import json
import logging
from functools import partial

import numpy as np
import pytest
import tifffile
from coco_cases import draw_case
from coco_mutations import mutated

from cellseg_d2.cells.coco_input import read_pair, read_results, read_truth
from cellseg_d2.cells.selection import Selection
from cellseg_d2.errors import CellSegError
from cellseg_d2.evaluation.coco_ap import detection_cap
from cellseg_d2.evaluation.coco_cells import class_names
from cellseg_d2.evaluation.judgement import judge_results
from cellseg_d2.evaluation.report_tables import text_of
from cellseg_d2.inference.merge import merge_files

CASES = 200


def sound():
    truth, results = draw_case(3, cells=6)
    for image, tissue in zip(truth["images"], ("lung", None, "liver")):
        image["tissue"] = tissue
    return {"gt.json": truth, "results.json": results}


def write(folder, damaged, seed):
    """Both files, one of them damaged."""
    for name, content in sound().items():
        data = mutated(content, np.random.default_rng(seed)) if name == damaged else json.dumps(content).encode()
        (folder / name).write_bytes(data)
    return folder / "gt.json", folder / "results.json"


def outcome(run):
    """``done``, or the line that a command would end with."""
    try:
        run()
    except CellSegError as error:
        return str(error)
    return "done"


def test_damaged_files_are_scored_or_refused_in_one_line(tmp_path):
    logging.getLogger("cellseg_d2").setLevel(logging.ERROR)
    truth, results = tmp_path / "gt.json", tmp_path / "results.json"
    done = 0

    def score():
        content, found = read_pair(truth, results)
        text_of(judge_results(content, found, detection_cap(content, found), Selection(class_names(content)))).encode()

    either = [score, partial(read_truth, truth), partial(read_results, [results])]
    merging = partial(merge_files, [results, results], tmp_path / "merged.json")
    for seed in range(CASES):
        damaged = "gt.json" if seed % 2 else "results.json"
        write(tmp_path, damaged, seed)
        runs = [*either, merging] if damaged == "results.json" else either
        for line in map(outcome, runs):
            done += line == "done"
            assert line == "done" or (line.startswith(f"{tmp_path}/") and damaged in line), (seed, line)
            assert "\n" not in line and len(line.removeprefix(str(tmp_path))) < 500, (seed, line)
            line.encode()
    assert CASES // 10 < done < 3 * CASES  # some are as good as sound, and most are not


@pytest.mark.parametrize("seed", range(4))
def test_so_do_the_commands(tmp_path, run_tool, seed):
    damaged = "gt.json" if seed % 2 else "results.json"
    truth, results = write(tmp_path, damaged, 1000 + seed)
    tifffile.imwrite(tmp_path / "4.tif", np.zeros((64, 64, 3), np.uint8))
    pair = ("--ground-truth", truth, "--predictions", results)
    commands = [
        ("evaluate", *pair),
        ("report", "evaluation", *pair, "--output", tmp_path / "page.html"),
        ("merge_predictions", results, results, "--output", tmp_path / "merged.json"),
        ("visualize", "predictions", "--input", tmp_path / "4.tif", *pair[2:], "--output", tmp_path / "grid.png"),
        ("convert_tifs", "--input", tmp_path, "--from-coco", truth, "--check"),
    ]
    for command in commands[:3] if seed < 2 else commands[2:]:
        done = run_tool(*command)
        assert done.returncode in (0, 2), done.stderr
        assert "Traceback" not in done.stderr
        assert done.stderr.count("error: ") == (done.returncode == 2), done.stderr
