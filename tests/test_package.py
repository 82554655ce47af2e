"""What the distribution contains, and what its programs import before they need it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"aded_local", "aded_cli", "aded_models", "aded_bench"}
HEAVY = ("numpy", "numba", "llama_cpp", "jinja2", "rich", "prompt_toolkit", "matplotlib", "gguf", "torch")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages as setuptools lays them out for a wheel: site-packages in miniature."""
    pytest.importorskip("setuptools", minversion="77")  # as [build-system] asks; [dev] brings it
    source = tmp_path_factory.mktemp("source")
    _copy_tree(source)
    target = tmp_path_factory.mktemp("lib")
    command = "from setuptools import setup; setup()"
    subprocess.run(
        [sys.executable, "-c", command, "--quiet", "build_py", "--build-lib", str(target)],
        cwd=source,
        check=True,
        capture_output=True,
    )
    return target


def _copy_tree(target: Path) -> None:
    import shutil

    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, target / name)
    for name in ("aded_local", "cli", "models", "bench"):
        shutil.copytree(
            ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
        )


def test_only_our_four_names_reach_site_packages(built: Path) -> None:
    assert {entry.name for entry in built.iterdir()} == PACKAGES


def test_every_package_is_marked_as_typed(built: Path) -> None:
    for package in PACKAGES:
        assert (built / package / "py.typed").is_file()


def test_models_and_all_modules_are_shipped(built: Path) -> None:
    for folder, package in (
        (".", "aded_local"),
        ("cli", "aded_cli"),
        ("models", "aded_models"),
        ("bench", "aded_bench"),
    ):
        source = ROOT / folder / package
        for pattern in ("**/*.py", "data/*.gguf", "run/*.jsonl"):
            for file in source.glob(pattern):
                assert (built / package / file.relative_to(source)).is_file(), file


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["--temp", "9999", "-p", "x"]])
def test_nothing_heavy_is_imported_for_help_version_and_usage_errors(arguments: list[str]) -> None:
    program = (
        "import sys; from aded_cli.chat import main\n"
        "try: main(sys.argv[1:], prog_name='aded-chat')\n"
        "except SystemExit: pass\n"
        f"print('loaded', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "loaded []"


def test_dependencies_are_each_justified() -> None:
    """Every distribution that pyproject.toml names has its line in docs/dependencies.md."""
    import re

    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    declared = project[project.index("dependencies = [") : project.index("[project.scripts]")]
    names = {re.match(r"[A-Za-z0-9_-]+", found).group() for found in re.findall(r'"([^"]+)"', declared)}  # type: ignore[union-attr]
    reasons = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    for name in names:
        assert f"`{name}`" in reasons, name


def test_the_map_shows_every_module_in_the_order_of_the_layers() -> None:
    """``docs/architecture.md`` draws the layers that ``lint-imports`` checks, from top to bottom."""
    import re

    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    layers = re.findall(r'"([^"]+)"', project.split("layers = [")[1].split("]")[0])
    level = {name: at for at, layer in enumerate(layers) for name in re.findall(r"\w+", layer)}
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^  (\w.*)$", text.split("\naded_local/\n")[1].split("```")[0], re.MULTILINE)
    # A row begins with its names; three spaces or more come before what it says of them.
    names = [re.findall(r"(\w+)(?:\.py|/)", re.split(r" {3,}", row)[0]) for row in rows]
    assert {name for row in names for name in row} == set(level)
    order = [level[name] for row in names for name in row]
    assert order == sorted(order)
