"""Change the repository's address everywhere: python tools/set_repository.py https://github.com/OWNER/NAME

The address stands in _config.yml; this replaces it there and in every file that repeats it (README, CITATION.cff,
pyproject.toml, the chapters' set-up cells).
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ADDRESS = re.compile(r"https://github\.com/[\w.-]+/[\w.-]+")


def repository():
    """The address in _config.yml."""
    text = (ROOT / "_config.yml").read_text()
    return re.search(r"^repository:\n(?:[ #].*\n)*?  url: (\S+)", text, re.MULTILINE).group(1)


def pages(address):
    """Where GitHub Pages serves a repository's site."""
    owner, name = address.split("/")[-2:]
    return f"https://{owner}.github.io/{name}/"


def files():
    """Every text file of the project that may repeat the address."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"],
                            cwd=ROOT, check=True, capture_output=True, text=True).stdout  # fmt: skip
    endings = {".md", ".yml", ".toml", ".cff", ".ipynb", ".py", ".cfg", ".txt"}
    return [
        ROOT / name for name in listed.split("\0") if Path(name).suffix in endings and (ROOT / name).is_file()
    ]


def main(new):
    new = new.rstrip("/").removesuffix(".git")
    if not ADDRESS.fullmatch(new):
        sys.exit(f"not the address of a GitHub repository: {new}")
    old = repository()
    tails = [
        (old, new),
        (old.removeprefix("https://"), new.removeprefix("https://")),
        (pages(old), pages(new)),
    ]
    for path in files():
        text = before = path.read_text(encoding="utf-8")
        for here, there in tails:
            text = (
                re.sub(re.escape(here) + r"(?![\w-])", there, text)
                if here[-1] != "/"
                else text.replace(here, there)
            )
        if text != before:
            path.write_text(text, encoding="utf-8")
            print("changed", path.relative_to(ROOT))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
