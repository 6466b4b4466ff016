"""The Colab copies: nothing of MyST is left in them, and they say the same as the site."""

import json
import os
import shutil
import subprocess
import sys

import colab_links
import make_colab
import pytest
from book_labels import Book
from browser import ROOT
from myst_to_plain import Translator, leftovers

TOY = r"""
(sec-toy)=
# 4. A toy chapter

Text with {cite:t}`finn2017maml`, {cite:p}`finn2017maml,nichol2018reptile` and {term}`support set`, {term}`ways <way>`.
See {eq}`eq-one`, {numref}`fig-one`, {numref}`Figure %s <fig-one>`, {prf:ref}`alg-one`, {ref}`sec-toy`,
{ref}`here <sec-toy>`, {doc}`glossary`, [notation](notation.md), [](05_second_derivative.ipynb), [](#sec-toy),
{math}`x^2`, H{sub}`2`O, {kbd}`Enter`, {abbr}`CI (confidence interval)`, {py:func}`mlbook.meta_learners.inner_loop.adapt`,
`{not}` a role, a span [with a class]{.muted}, inline $a_{t}$ and $\{x\}$.

% a comment
+++
$$ y = x $$ (eq-one)

$$
z = y
$$ (eq-two)

```{math}
:label: eq-three
w = z
```

\begin{equation}
v = w
\end{equation}

:::{note}
A box with {eq}`eq-two` and maths $x$.
:::

::::{admonition} A title with $x$
:class: tip

:::{warning} One
nested
:::
- list

  ```{tip}
  indented
  ```
::::

```{dropdown} More
hidden
```

````{prf:algorithm} MAML
:label: alg-one
1. first
2. second, see {eq}`eq-three`

```{math}
:label: eq-inside
u = v
```
````

```{prf:proof}
clear
```

```{exercise} Step
:label: ex-one
Do it.
```

````{solution} ex-one
:class: dropdown
So.

```{code-block} python
:caption: unused
x = {1: 2}
```
````

```{figure} _static/favicon.svg
:name: fig-one
:alt: a picture
The caption.
```

```{image} _static/favicon.svg
:alt: another
```

:::::{tab-set}
::::{tab-item} One
first tab
::::
:::::

:::{margin}
aside
:::

:::{list-table} Numbers
:header-rows: 1
:name: tab-one
* - a
  - b
* - 1
  - 2
:::

```{solution-start} ex-one
```
"""


@pytest.fixture
def toy(tmp_path):
    """A book folder with one chapter that uses every construct."""
    (tmp_path / "book").mkdir()
    for name in ["_config.yml", "_toc.yml", "book/references.bib"]:
        shutil.copy(ROOT / name, tmp_path / name)
    code = {
        "cell_type": "code",
        "metadata": {},
        "source": ["answer = 42"],
        "outputs": [],
        "execution_count": 1,
    }
    hidden = {**code, "metadata": {"tags": ["hide-input"]}}
    end = {"cell_type": "markdown", "metadata": {}, "source": ["```{solution-end}\n", "```"]}
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": TOY.splitlines(keepends=True)},
        code,
        end,
        hidden,
        code,
    ]
    notebook = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    path = tmp_path / "book/04_maml.ipynb"
    path.write_text(json.dumps(notebook))
    return json.loads(path.read_text()), Book(tmp_path)


def test_every_construct_is_translated(toy):
    notebook, book = toy
    copy = make_colab.convert(notebook, "book/04_maml", book)
    text = copy["cells"][2]["source"]
    assert leftovers(text) == []
    assert leftovers(TOY) != []
    for expected in [
        "[Finn et al. (2017)](https://arxiv.org/abs/1703.03400)",
        "([Finn et al., 2017](",
        "glossary.html#term-support-set)",
        "[ways](",
        "[(4.1)](",
        "[Fig. 4.1](",
        "[Figure 4.1](",
        "[Algorithm 4.1](",
        r"$$ y = x \tag{4.1}$$",
        "z = y\n\\tag{4.2}\n$$",
        r"w = z\tag{4.3}",
        r"u = v\tag{4.5}",  # the unlabelled equation environment is (4.4)
        "**Algorithm 4.1 (MAML)**",
        "**Exercise 4.1 (Step)**",
        "<summary><b>Solution to Exercise 4.1</b></summary>",
        "<summary><b>More</b></summary>",
        '<img src="https://raw.githubusercontent.com/',
        'alt="a picture"',
        "| a | b |",
        "**Table 4.1** Numbers",
        "`{not}` a role",
        "```python\nx = {1: 2}\n```",
        r"$a_{t}$ and $\{x\}$",
        "**A title with $x$**",
        "05_second_derivative.ipynb",
    ]:
        assert expected in text, expected
    assert "[4. A toy chapter](" in copy["cells"][0]["source"], "the number stands once"
    assert "a comment" not in text and ".muted" not in text


def test_solutions_and_hidden_cells_are_folded(toy):
    notebook, book = toy
    copy = make_colab.convert(notebook, "book/04_maml", book)
    _, solution, hidden, plain = (cell for cell in copy["cells"] if cell["cell_type"] == "code")
    assert solution["source"].startswith("#@title Solution") and solution["metadata"]["cellView"] == "form"
    assert hidden["source"].startswith("#@title") and hidden["metadata"]["cellView"] == "form"
    assert "".join(plain["source"]) == "answer = 42" and "cellView" not in plain["metadata"]
    assert "colab" not in notebook["metadata"], "the source notebook was changed"


def test_a_gpu_is_asked_for_where_a_cell_trains_what_it_speeds_up(toy):
    notebook, book = toy
    copy = make_colab.convert(notebook, "book/04_maml", book)
    assert "accelerator" not in copy["metadata"] and "gpuType" not in copy["metadata"]["colab"]
    assert "needs no GPU" in copy["cells"][0]["source"]
    training = json.loads(json.dumps(notebook))
    training["cells"][-1] = {**notebook["cells"][4], "source": 'notebook.train(env, "maml-sinusoid-5shot")'}
    copy = make_colab.convert(training, "book/04_maml", book)
    assert copy["metadata"]["accelerator"] == "GPU" and copy["metadata"]["colab"]["gpuType"] == "T4"
    assert "T4 GPU" in copy["cells"][0]["source"]


def test_the_page_about_colab_names_the_chapters_that_train_longer_on_a_gpu():
    chapters = []
    for path in sorted((ROOT / "book").glob("[0-9][0-9]_*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        if make_colab.wants_gpu(notebook):
            chapters.append(str(int(path.name[:2])))
        assert "accelerator" not in notebook["metadata"]  # the copies have it where it is due
    sentence = f"chapters {', '.join(chapters[:-1])} and {chapters[-1]}"
    assert sentence in " ".join((ROOT / "book/colab.md").read_text(encoding="utf-8").split())


def test_outputs_come_along_and_labs_say_what_they_are(toy):
    notebook, book = toy
    lab = {"application/vnd.jupyter.widget-view+json": {"model_id": "x"}, "text/plain": "Lab()"}
    twin = json.loads(json.dumps(notebook))
    twin["cells"][4]["outputs"] = [
        {"output_type": "stream", "name": "stdout", "text": "42"},
        {"output_type": "display_data", "metadata": {}, "data": lab},
    ]
    cells = make_colab.convert(notebook, "book/04_maml", book, twin)["cells"]
    outputs = next(cell for cell in cells if "".join(cell["source"]) == "answer = 42")["outputs"]
    assert outputs[0]["text"] == "42" and outputs[1]["data"] == {"text/plain": make_colab.LAB}
    assert "widget-view" in json.dumps(twin), "the executed notebook was changed"


def test_unknown_constructs_are_refused(toy):
    translate = Translator(toy[1], "book/04_maml")
    with pytest.raises(ValueError, match="directive {frobnicate}"):
        translate("```{frobnicate}\nx\n```")
    with pytest.raises(ValueError, match="role {frobnicate}"):
        translate("a {frobnicate}`role`")
    with pytest.raises(ValueError, match="no-such-label"):
        translate("see {numref}`no-such-label`")
    with pytest.raises(ValueError, match="no-such-key"):
        translate("see {cite}`no-such-key`")


def test_copies_of_the_chapters(tmp_path):
    """Every chapter there is, by the command itself, which refuses to write a copy with a directive left in it."""
    command = [sys.executable, ROOT / "tools/make_colab.py", tmp_path / "colab"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run(command, check=True, cwd=tmp_path, env=environment)
    chapters = {path.name for path in (ROOT / "book").glob("[0-9][0-9]_*.ipynb")}
    further = {f"{name}.ipynb" for name in colab_links.FURTHER}
    assert {path.name for path in (tmp_path / "colab").iterdir()} == chapters | further
    for path in (tmp_path / "colab").iterdir():
        copy = json.loads(path.read_text(encoding="utf-8"))
        original = json.loads((ROOT / "book" / path.name).read_text(encoding="utf-8"))
        code = [[c for c in nb["cells"] if c["cell_type"] == "code"] for nb in (copy, original)]
        answers = [cell for cell in copy["cells"] if "answer" in cell["metadata"].get("tags", [])]
        exercises = sum("".join(cell["source"]).count("{exercise}") for cell in original["cells"])
        assert len(answers) == exercises >= (4 if path.name in chapters else 0)
        stubs = [cell for cell in answers if cell["cell_type"] == "code"]
        assert (stubs or not answers) and len(code[0]) == len(code[1]) + 1 + len(
            stubs
        )  # one switches on the labs
        assert len({cell["id"] for cell in copy["cells"]}) == len(copy["cells"])
        for cell in copy["cells"]:
            if cell["cell_type"] == "markdown":
                assert leftovers(cell["source"]) == []


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("MLBOOK_EVERY_CHAPTER"), reason="`make test-colab` runs all copies")
def test_a_copy_runs_as_on_colab():
    """From an empty folder, with Colab's ipywidgets, installing the package itself; asks a package index."""
    command = [sys.executable, ROOT / "tools/run_colab.py", "01_learning_to_learn"]
    done = subprocess.run(command, capture_output=True, text=True)
    if "Could not find a version that satisfies" in done.stderr or "No matching distribution" in done.stderr:
        pytest.skip("pip reaches no package index, so Colab's ipywidgets cannot be installed")
    assert done.returncode == 0, done.stderr
    assert "01_learning_to_learn.ipynb" in done.stdout and " 7.7.1" in done.stdout
