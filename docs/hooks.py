"""What MkDocs does besides: pages whose sources are elsewhere in the repository, and the notebooks as pages.

Links in the sources are those of the repository, so that they work there, too; here they become the site's.
"""

import base64
import json
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
ELSEWHERE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "docker/README.md": "docker.md",
    "mlflow/README.md": "mlflow.md",
    "ray_cluster/README.md": "ray_cluster.md",
    "CITATION.cff": "CITATION.cff",
}
"""Paths in the repository, and in the site."""
SOURCE = {place: path for path, place in ELSEWHERE.items()}
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages whose sources are not below `docs/`."""
    for path, place in ELSEWHERE.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / path)))
    for notebook in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        for place, content in notebook_pages(notebook).items():
            files.append(File.generated(config, place, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files of the repository into links to their pages."""
    here = page.file.src_uri
    folder = posixpath.dirname(SOURCE.get(here, f"docs/{here}"))

    def link(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, match[0]))
        place = ELSEWHERE.get(path, path.removeprefix("docs/")).replace(".ipynb", ".md")
        return posixpath.relpath(place, posixpath.dirname(here)) if files.get_file_from_path(place) else match[0]

    return LINK.sub(link, markdown)


def notebook_pages(notebook: Path) -> dict[str, str | bytes]:
    """A notebook as Markdown, with its outputs, and its pictures, by their paths in the site."""
    parts, pages = list[str](), dict[str, str | bytes]()
    for cell in json.loads(notebook.read_text())["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {"text/plain": output.get("text", "")})
            if "image/png" in data:
                name = f"{notebook.stem}-{len(pages) + 1}.png"
                pages[f"notebooks/{name}"] = base64.b64decode("".join(data["image/png"]))
                parts.append(f"![What the cell above draws]({name})")
            elif "text/html" in data:
                plain = "".join(data["text/html"]).replace(' border="1" class="dataframe"', "")  # as other tables look
                parts.append(f'<div class="md-typeset__scrollwrap">{plain}</div>')
            elif text := "".join(data["text/plain"]).rstrip():
                parts.append(f"```text\n{text}\n```")
    return {f"notebooks/{notebook.stem}.md": "\n\n".join(parts), **pages}
