"""The command line as a whole: its verbs, their help, and the page that is made from it."""

import argparse
import os
import re
import subprocess
import sys

import pytest

import cellseg_d2
from cellseg_d2.commands import VERBS, command_module, help_text, main
from cellseg_d2.commands.cli import ToolParser, run_tool
from cellseg_d2.commands.reference import JOBS, reference


def test_help_lists_every_verb_with_a_line(capsys):
    assert main(["--help"]) == main([]) == 0
    assert capsys.readouterr().out == 2 * help_text()
    assert all(re.search(rf"^  {verb} +\w", help_text(), re.MULTILINE) for verb in VERBS)


def test_the_version_is_the_packages(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"cellseg-d2 {cellseg_d2.__version__}\n"


@pytest.mark.parametrize(
    ("word", "hint"), [("predct", "did you mean predict?"), ("xyzzy", "choose from convert, train, predict")]
)
def test_an_unknown_verb_is_one_line(word, hint, capsys):
    assert main([word]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: there is no verb '{word}'; {hint}")
    assert error.count("\n") == 1


@pytest.mark.parametrize("words", [["--help"], *([verb, "--help"] for verb in VERBS)], ids=" ".join)
def test_help_is_printed_without_torch(words, repo_root):
    code = "import sys; sys.modules.update(torch=None, detectron2=None)\n"
    code += f"from cellseg_d2.commands import main; main({words})"
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(repo_root)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {' '.join(['cellseg-d2', *words[:-1]])} ")


@pytest.mark.parametrize("verb", ["train", "predict", "export"])
def test_help_of_the_daily_verbs_loads_no_library_for_arrays(verb, repo_root):
    """It is printed in a fraction of a second, also where the disk is slow."""
    heavy = ["cv2", "numpy", "scipy", "skimage", "shapely", "matplotlib", "pycocotools", "tifffile"]
    code = f"import sys; sys.modules.update(dict.fromkeys({heavy}))\n"
    code += f"from cellseg_d2.commands import main; main(['{verb}', '--help'])"
    environment = {**os.environ, "PYTHONPATH": str(repo_root)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", [[], ["visualize", "dataset"], *([verb] for verb in VERBS)], ids=" ".join)
def test_every_verb_prints_the_version(words, capsys):
    try:
        code = main([*words, "--version"])
    except SystemExit as end:
        code = end.code
    assert code == 0
    assert capsys.readouterr().out == f"cellseg-d2 {cellseg_d2.__version__}\n"


@pytest.mark.parametrize("words", ["--help", "--version", "predict --help", "evaluate --help"])
def test_help_may_be_read_by_one_who_leaves_early(words, repo_root):
    """The reader is gone before a word is written."""
    code = f"import sys; from cellseg_d2.commands import main; sys.exit(main({words.split()}))"
    environment = {**os.environ, "PYTHONPATH": str(repo_root)}
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=writing, stderr=subprocess.PIPE, env=environment, check=False
    )
    os.close(writing)
    assert done.returncode == 0
    assert done.stderr == b""


def test_every_verb_has_a_parser_and_the_tools_call_the_same(repo_root):
    for verb in VERBS:
        assert isinstance(command_module(verb).build_parser(), argparse.ArgumentParser)
    called = {
        re.search(r"from cellseg_d2\.commands\.(\w+) import main", path.read_text())[1]
        for path in (repo_root / "tools").glob("*.py")
        if path.stem != "benchmark"
    }
    assert called == {verb.replace("-", "_") for verb in VERBS}


def test_help_shows_defaults_but_none_that_say_nothing(capsys):
    parser = ToolParser("Tries.", prog="try")
    parser.add_argument("--side", type=int, default=512, help="pixels")
    parser.add_argument("--formats", nargs="+", default=["a", "b"], help="which")
    parser.add_argument("--cores", type=int, default=7, help="processes (default: one per core)")
    parser.add_argument("--quick", action="store_true", help="a flag")
    parser.add_argument("--file", help="a file")
    parser.add_argument("--needed", required=True, default=3, help="must be given")
    shown = " ".join(parser.format_help().split())
    assert "pixels (default: 512)" in shown
    assert "which (default: a b)" in shown
    assert shown.count("default") == 3


def test_a_reader_that_leaves_early_ends_the_command_silently(repo_root):
    code = "import sys; from cellseg_d2.commands.cli import run_tool\n"
    code += "sys.exit(run_tool(lambda argv: print('line\\n' * 10**5)))"
    environment = {**os.environ, "PYTHONPATH": str(repo_root)}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 0


def test_the_exit_code_is_what_the_command_returns():
    assert run_tool(lambda argv: 1) == 1


def test_a_wrong_option_of_train_is_one_line(run_tool):
    done = run_tool("train_net", "--num-gpus", "two")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.endswith("see train_net.py --help\n")
    assert done.stderr.count("\n") == 1


def test_the_page_of_commands_is_that_of_the_parsers(repo_root):
    """``make docs`` writes it."""
    assert (repo_root / "docs" / "commands.md").read_text(encoding="utf-8") == reference()


@pytest.mark.parametrize("command", JOBS.values())
def test_the_commands_of_the_page_are_understood(command):
    """Each is parsed as typed, without a config key's value, which the command itself checks."""
    words = command.split()
    parser = command_module(words[0]).build_parser()
    keys = next((number for number, word in enumerate(words) if re.fullmatch(r"[A-Z]+[._][A-Z._]+", word)), len(words))
    arguments = words[1:keys] if words[0] == "predict" else words[1:]
    parser.parse_args(arguments)
