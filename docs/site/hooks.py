"""What mkdocs is told in Python: the README is the first page, and every page has its place."""

import re
import tempfile
from pathlib import Path
from typing import Any

from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

DOCS = Path(__file__).resolve().parents[1]
ROOT = DOCS.parent
PACKAGE = tempfile.TemporaryDirectory()
"""Holds the import package as it will be installed: docstrings are read from files."""
TASKS = (
    *("datasets.md", "data.md", "flow.md", "stores.md", "streaming.md"),
    *("training.md", "a2s.md", "testing.md", "predict.md", "evaluation.md", "report.md"),
)
"""Pages in the order of the work; the others come after them."""


@event_priority(100)  # before mkdocstrings
def on_config(config: Any) -> Any:
    """List all pages, so that a new file is in the menu without being named here."""
    package = Path(PACKAGE.name) / "vsodpipe"
    package.mkdir(exist_ok=True)
    for source in (*(ROOT / "pipeline").glob("*.py"), ROOT / "flows", ROOT / "models"):
        if not (package / source.name).is_symlink():
            (package / source.name).symlink_to(source)
    config.plugins["mkdocstrings"].config.handlers["python"]["paths"] = [PACKAGE.name]
    names = sorted(path.name for path in DOCS.glob("*.md"))
    coming = [name for name in names if name.startswith("from_") or name == "layouts.md"]
    tasks = [name for name in TASKS if name in names]
    config.nav = [
        {"Start": "index.md"},
        {"Tasks": tasks},
        {"Coming from": coming},
        {"More": [name for name in names if name not in (*tasks, *coming)]},
        {"Python": [f"api/{path.name}" for path in sorted((DOCS / "api").glob("*.md"))]},
    ]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the README, with its links as seen from this folder."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "index.md", content=re.sub(r"\]\(docs/", "](", text)))
    return files
