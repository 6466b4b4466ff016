"""The project's own files: they agree with each other, and nothing of one machine has got into them."""

import json
import re
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import build_book
import chapter_costs
import executed_copies
import make_env
import nbformat
import pytest
import set_repository
import yaml
from browser import ROOT

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CONDA_NAMES = {"pytorch": "torch", "matplotlib-base": "matplotlib"}
CONDA_ONLY = {"python", "pip", "jupyterlab"}


def split(requirement):
    """('torch', '>=2.4') of 'torch >=2.4'."""
    name, bounds = re.match(r"^([A-Za-z0-9_.-]+)\s*(.*)$", requirement).groups()
    return name.lower(), bounds.replace(" ", "")


def text_files():
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    binary = {".png", ".safetensors", ".npz", ".pt", ".gz", ".xz"}
    return [
        ROOT / name
        for name in names
        if name and (ROOT / name).is_file() and (ROOT / name).suffix not in binary
    ]


# -- requirements ---------------------------------------------------------------------------------------------------


def test_the_core_has_lower_bounds_only():
    for requirement in PYPROJECT["project"]["dependencies"]:
        assert re.fullmatch(r"[a-z]+>=[\d.]+", requirement), requirement


def test_environment_yml_agrees_with_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    lines = [line for line in environment["dependencies"] if isinstance(line, str)]
    (pip,) = [line["pip"] for line in environment["dependencies"] if isinstance(line, dict)]
    assert pip == ["-e ."]  # conda writes these lines into a requirements file, which takes no --no-deps
    conda = dict(split(line) for line in lines)
    assert conda["python"] == PYPROJECT["project"]["requires-python"]
    wanted = {}
    for requirement in (
        PYPROJECT["project"]["dependencies"] + PYPROJECT["project"]["optional-dependencies"]["book"]
    ):
        name, bounds = split(requirement)
        wanted[name] = bounds  # the book's bound for ipywidgets is the tighter one and comes last
    found = {CONDA_NAMES.get(name, name): bounds for name, bounds in conda.items() if name not in CONDA_ONLY}
    assert found == wanted


def test_constraints_satisfy_pyproject():
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {}
    for line in lines:
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            pins[canonicalize_name(requirement.name)] = str(requirement.specifier).removeprefix("==")
    extras = PYPROJECT["project"]["optional-dependencies"]
    for line in PYPROJECT["project"]["dependencies"] + extras["book"] + extras["test"]:
        requirement = Requirement(line)
        assert requirement.name in pins, f"{requirement.name} has no line in constraints.txt"
        assert requirement.specifier.contains(pins[requirement.name]), line


def test_an_installed_torch_is_kept(tmp_path, monkeypatch):
    """Colab's or a reader's PyTorch takes the place of the one in constraints.txt."""
    for name, version in {"torch": "2.8.0+cu126", "torchvision": "0.23.0+cu126"}.items():
        metadata = tmp_path / f"{name}-{version}.dist-info/METADATA"
        metadata.parent.mkdir()
        asks = "Requires-Dist: sympy==1.13.1; python_version >= '3.9'\nRequires-Dist: filelock\n"
        metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{asks}")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    lines = make_env.constraints(sys.executable).splitlines()
    assert [line for line in lines if line.startswith("torch")] == [
        "torch==2.8.0+cu126",
        "torchvision==0.23.0+cu126",
    ]
    # What that torch asks for exactly is its own choice; all else is pinned as before.
    assert not [line for line in lines if line.startswith("sympy")]
    assert [line for line in lines if line.startswith("filelock")]


def test_package_lock_names_no_address():
    lock = json.loads((ROOT / "package-lock.json").read_text(encoding="utf-8"))
    assert (
        lock["packages"][""]["devDependencies"]
        == json.loads((ROOT / "package.json").read_text())["devDependencies"]
    )
    assert not [name for name, package in lock["packages"].items() if "resolved" in package]


# -- the wheel ------------------------------------------------------------------------------------------------------


def test_wheel_holds_the_whole_package(tmp_path):
    """Result records, checkpoints and widget code are in it, not only the modules."""
    from hatchling.builders.wheel import WheelBuilder

    wheel = next(WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"]))
    inside = set(zipfile.ZipFile(wheel).namelist())
    files = [path.relative_to(ROOT) for path in text_files_and_binaries("mlbook")]
    files = [path for path in files if path.name != "ruff.toml"]
    assert len(files) > 10
    assert {str(path) for path in files} <= inside
    import mlbook

    assert f"mlbook-{mlbook.__version__}-" in wheel


def text_files_and_binaries(folder):
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z", folder],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


# -- the repository's address ---------------------------------------------------------------------------------------


def test_one_repository_address():
    """_config.yml says where the repository is; nothing says something else."""
    address = set_repository.repository()
    assert address == yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["repository-code"] == address
    assert PYPROJECT["project"]["urls"]["Repository"] == address
    owner, name = address.split("/")[-2:]
    for path in text_files():
        if (
            path.suffix not in {".md", ".yml", ".toml", ".cff", ".ipynb", ".py"}
            or path.name == "test_project.py"
        ):
            continue
        for found in re.findall(
            rf"github\.com/([\w.-]+/{re.escape(name)})\b", path.read_text(encoding="utf-8")
        ):
            assert found == f"{owner}/{name}", f"{path.relative_to(ROOT)} has another address"


def test_set_repository_changes_every_place(tmp_path, monkeypatch):
    old = set_repository.repository()
    owner, name = old.split("/")[-2:]
    (tmp_path / "_config.yml").write_text((ROOT / "_config.yml").read_text(encoding="utf-8"))
    (tmp_path / "README.md").write_text(
        f"[c]({old}/actions) git+{old}@main github.com/{owner}/{name}-other {owner}.github.io/{name}/"
    )
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    monkeypatch.setattr(set_repository, "ROOT", tmp_path)
    set_repository.main("https://github.com/someone/learning.git")
    assert set_repository.repository() == "https://github.com/someone/learning"
    text = (tmp_path / "README.md").read_text()
    assert (
        "https://github.com/someone/learning/actions" in text
        and "git+https://github.com/someone/learning@main" in text
    )
    assert f"github.com/{owner}/{name}-other" in text, (
        "another repository whose name begins the same was changed"
    )
    with pytest.raises(SystemExit):
        set_repository.main("not an address")


# -- the sources ----------------------------------------------------------------------------------------------------


def test_toc_and_book_folder_agree():
    """Every chapter is in the table of contents, and everything there exists."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    listed = {toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])}
    there = {
        str(path.relative_to(ROOT).with_suffix(""))
        for path in (ROOT / "book").iterdir()
        if path.suffix in {".md", ".ipynb"}
    }
    assert listed == there


@pytest.mark.parametrize(
    "path", sorted((ROOT / "book").glob("[0-9][0-9]_*.ipynb")), ids=lambda path: path.name
)
def test_a_chapters_title_has_its_number(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    title = re.search(r"^# .*", "".join(cells[0]["source"]), re.MULTILINE).group(0)
    assert title.startswith(f"# {int(path.name[:2])}. "), title


@pytest.mark.parametrize("path", sorted((ROOT / "book").glob("*.ipynb")), ids=lambda path: path.name)
def test_notebooks_are_stored_without_outputs(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not [cell for cell in code if cell["outputs"] or cell["execution_count"]], "run `make format`"


def test_no_trace_of_one_machine():
    """No home folder, no folder beside the checkout except the data folder that .ci/run may use."""
    forbidden = [
        str(ROOT.parent) + "/",
        "/ro" + "ot/",
        "pypi" + ".org",
        "registry.npm" + "js.org",
        "files.python" + "hosted",
    ]
    if str(ROOT.parent) == "/":
        forbidden = forbidden[1:]
    for path in text_files():
        text = path.read_text(encoding="utf-8", errors="replace")
        for word in forbidden:
            assert word not in text, f"{path.relative_to(ROOT)} contains {word}"


def test_ci_runs_the_readmes_command():
    assert "\nmake test\n" in (ROOT / ".ci/run").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make test" in readme and "make book" in readme


def test_workflows_are_valid():
    """They parse, stop at the first error, and the Colab one leaves Colab's torch alone."""
    workflows = {
        path.name: yaml.safe_load(path.read_text(encoding="utf-8"))
        for path in (ROOT / ".github/workflows").glob("*.yml")
    }
    assert set(workflows) == {"test.yml", "pages.yml", "colab.yml"}
    for name, workflow in workflows.items():
        for job in workflow["jobs"].values():
            for step in job["steps"]:
                if "\n" in step.get("run", ""):
                    assert step["run"].startswith("set -eo pipefail\n"), f"{name}: {step.get('name')}"
    versions = workflows["test.yml"]["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert versions == ["3.10", "3.11", "3.12", "3.13"]


def test_files_that_texts_name_exist():
    """A module that moves leaves no stale path behind in pages, docstrings and READMEs."""
    import json
    import re

    named = re.compile(
        r"(?<![\w/.])((?:mlbook|benchmarks|studies|tools|tests)/[\w/]+\.(?:py|json|js|md))(?!\w)"
    )
    texts = {
        path: path.read_text(encoding="utf-8")
        for path in ROOT.glob("**/*.md")
        if path.parts[-2] != "node_modules"
    }
    texts = {
        path: text
        for path, text in texts.items()
        if not set(path.parts) & {".venv", "_build", "node_modules"}
    }
    for path in (ROOT / "book").glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        texts[path] = "\n".join("".join(cell["source"]) for cell in cells)
    for path in (ROOT / "mlbook").rglob("*.py"):
        texts[path] = path.read_text(encoding="utf-8")
    missing = {
        f"{path.relative_to(ROOT)}: {name}"
        for path, text in texts.items()
        for name in named.findall(text)
        if not (ROOT / name).exists()
    }
    assert not missing


# -- the notebooks --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def around():
    return build_book.surroundings()


@pytest.mark.site
@pytest.mark.parametrize("path", sorted((ROOT / "book").glob("*.ipynb")), ids=lambda path: path.name)
def test_a_notebook_runs_through(path, around):
    """The build has executed its cells as they are now, with the package as it is now, and none of them failed."""
    assert build_book.is_fresh(path, around), "it failed, or has changed since: run `make book`"


def test_outputs_of_a_copy_reach_the_page_and_a_failure_is_shown(tmp_path):
    """What ran through is not executed again; what failed is, and its cell and error are shown."""
    good, bad = (nbformat.v4.new_notebook() for _ in range(2))
    good.cells = [nbformat.v4.new_markdown_cell("Words."), nbformat.v4.new_code_cell("print(6 * 7)")]
    bad.cells = [nbformat.v4.new_code_cell("zero = 0\n1 / zero")]
    paths = [tmp_path / "good.ipynb", tmp_path / "bad.ipynb"]
    for notebook, path in zip((good, bad), paths, strict=True):
        nbformat.write(notebook, path)
    folder = tmp_path / "executed"
    said = build_book.execute(paths, "the package", folder)
    assert "1 / zero" in said and "ZeroDivisionError" in said and "1 failed, 1 passed" in said
    assert [build_book.is_fresh(path, "the package", folder) for path in paths] == [True, False]
    assert not build_book.is_fresh(paths[0], "another package", folder)

    def page():
        env = SimpleNamespace(note_dependency=lambda path: None)
        source = [nbformat.writes(good)]
        executed_copies.put_in(SimpleNamespace(srcdir=tmp_path, env=env), "book/good", source)
        assert 0 < chapter_costs.seconds_to_run(env, "book/good") < 300
        return nbformat.reads(source[0], as_version=4).cells

    good.cells[0].source = "Other words."
    assert page()[0].source == "Other words." and page()[1].outputs[0].text == "42\n"
    good.cells[1].source = "print(6 * 8)"
    assert page()[1].outputs == [], "outputs of other code"
