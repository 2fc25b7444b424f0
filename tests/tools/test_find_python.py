import shutil
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "tools/find_python.sh"
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
BASE_PYTHON = Path(sys.base_prefix, "bin", f"python{VERSION}")


def test_a_python_that_starts_is_found_behind_a_shim_that_does_not(tmp_path: Path) -> None:
    _executable(tmp_path / f"bin/python{VERSION}", "echo 'pyenv: command not found' >&2; exit 127")
    version = tmp_path / f"pyenv/versions/{VERSION}.99/bin/python"
    version.parent.mkdir(parents=True)
    version.symlink_to(BASE_PYTHON)

    result = _run(path=tmp_path / "bin", PYENV_ROOT=str(tmp_path / "pyenv"))

    _finds(result)


def test_a_python_that_only_uv_knows_is_found(tmp_path: Path) -> None:
    _executable(tmp_path / "bin/uv", f'[ "$*" = "python find {VERSION}" ] && echo "{BASE_PYTHON}"')

    _finds(_run(path=tmp_path / "bin", PYENV_ROOT=str(tmp_path)))


def test_the_python_below_a_virtual_environment_is_printed(tmp_path: Path) -> None:
    subprocess.run([BASE_PYTHON, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)

    result = _run(path=tmp_path, PYTHON=str(tmp_path / "venv/bin/python"))

    _finds(result)
    assert str(tmp_path) not in result.stdout


def test_the_first_version_that_is_there_is_taken(tmp_path: Path) -> None:
    for version in ("3.12", "3.11"):
        _executable(tmp_path / f"python{version}", f'[ "${{@: -1}}" = {version} ] && echo /found/{version}')

    assert _run(path=tmp_path, PYENV_ROOT=str(tmp_path)).stdout == "/found/3.12\n"
    assert _run("3.10", "3.11", path=tmp_path, PYENV_ROOT=str(tmp_path)).stdout == "/found/3.11\n"


def test_another_python_is_refused_in_one_line(tmp_path: Path) -> None:
    wrong = _executable(tmp_path / "python3.9", 'if [ "$1" = -V ]; then echo Python 3.9.18; else exit 1; fi')

    result = _run(path=tmp_path, PYTHON=str(wrong))

    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert str(wrong) in result.stderr
    assert "Python 3.9.18" in result.stderr


def test_a_python_that_does_not_exist_is_refused_in_one_line(tmp_path: Path) -> None:
    result = _run(path=tmp_path, PYTHON=str(tmp_path / "none"))

    assert result.returncode == 2
    assert result.stderr.count("\n") == 1


def test_no_python_at_all_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    result = _run(path=tmp_path, PYENV_ROOT=str(tmp_path))

    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert "pyenv install 3.13" in result.stderr


def _run(*versions: str, path: Path, **environment: str) -> subprocess.CompletedProcess:
    """Runs the script with nothing but ``path`` and the given variables: the machine's own Pythons do not count."""
    command = [shutil.which("bash"), str(SCRIPT), *versions]
    environment = {"PATH": str(path), "HOME": str(path), **environment}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def _finds(result: subprocess.CompletedProcess) -> None:
    """The script printed a Python of this version, which starts."""
    assert result.returncode == 0, result.stderr
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    found = subprocess.run([result.stdout.strip(), "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == VERSION


def _executable(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{shutil.which('bash')}\n{script}\n")
    path.chmod(0o755)
    return path
