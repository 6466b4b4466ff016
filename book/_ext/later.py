"""Take what a lab can do without at first out of its page: bytes of traits ``later_…`` become scripts in _static/later.

The state of every lab stands in the page before its text, so a reader waits for all of it. js/labs.js fetches the scripts when
the lab stands. A script and not plain data: a page that is opened from a folder may load nothing else.
"""

import hashlib
import json
import re
from pathlib import Path

STATE = re.compile(r'(<script type="application/vnd.jupyter.widget-state\+json">)(.*?)(</script>)', re.DOTALL)


def move(text, static):
    """The page with these bytes replaced by addresses of scripts, which are written into the folder ``static``."""

    def without(found):
        described = json.loads(found[2])
        for model in described["state"].values():
            for buffer in list(model.get("buffers", [])):
                trait = buffer["path"][0]
                if (
                    not trait.startswith("later_")
                    or len(buffer["path"]) > 1
                    or buffer["encoding"] != "base64"
                ):
                    continue
                name = f"{hashlib.sha256(buffer['data'].encode()).hexdigest()[:16]}.js"
                address = f"_static/later/{name}"
                static.joinpath("later").mkdir(parents=True, exist_ok=True)
                script = f"mlbookLater({json.dumps(address)}, {json.dumps(buffer['data'])});\n"
                static.joinpath("later", name).write_text(script, encoding="utf-8")
                model["buffers"].remove(buffer)
                model["state"].setdefault("later", {})[trait] = address
        return found[1] + json.dumps(described).replace("</", "<\\/") + found[3]

    return STATE.sub(without, text)


def _after_the_build(app, exception):
    if exception is not None or app.builder.format != "html":
        return
    for path in Path(app.outdir).rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        if '"later_' in text:
            path.write_text(move(text, Path(app.outdir, "_static")), encoding="utf-8")


def setup(app):
    app.connect("build-finished", _after_the_build)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
