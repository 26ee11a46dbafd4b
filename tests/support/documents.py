"""The examples in the documents: fenced blocks, the commands in them, and a check of what a command is given."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    *(
        ROOT / name
        for name in ("README.md", "CONTRIBUTING.md", "ray_cluster/README.md", "mlflow/README.md", "docker/README.md")
    ),
    *sorted((ROOT / "docs").glob("*.md")),
]
FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", flags=re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block of a document."""

    place: str
    """Document and line."""
    language: str
    text: str

    @property
    def commands(self) -> list[list[str]]:
        """The words of every command in a block of shell, without comments and variables that are set for it alone."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [command for line in lines for command in split_commands(line)]


def blocks(*documents: Path, language: str | None = None) -> list[Block]:
    """The fenced blocks of documents (all if none is named), of one language if it is given."""
    found = []
    for document in documents or DOCUMENTS:
        text = document.read_text()
        for fence in FENCE.finditer(text):
            place = f"{document.relative_to(ROOT)}:{text.count(chr(10), 0, fence.start()) + 1}"
            found.append(Block(place, fence["language"], fence["text"]))
    return [block for block in found if language in (None, block.language)]


def split_commands(line: str) -> Iterator[list[str]]:
    """The words of the commands in a line of shell."""
    words = shlex.shlex(line, posix=True, punctuation_chars="()<>|&;")
    words.whitespace_split = True
    command: list[str] = []
    for word in [*words, ";"]:
        if set(word) <= set("()<>|&;"):
            if command:
                yield command
            command = []
        elif command or not re.match(r"\w+=", word):
            command.append(word)


def commands_of(program: str, command: list[str]) -> Iterator[list[str]]:
    """The arguments of a program in a command: itself, what it passes to another shell, and `python -m` of rlvo."""
    if command[0] == program:
        yield command[1:]
    for at, word in enumerate(command[1:], 1):
        if word.startswith(f"{program} "):
            yield shlex.split(word)[1:]
        elif program == "rlvo" and word in ("rlvo.cli.main", "rlvo/cli/main.py"):
            yield command[at + 1 + (command[at + 1 : at + 2] == ["--"]) :]


def parse(program: Any, arguments: list[str], name: str = "", parent: Any = None) -> None:
    """Check arguments as click does before it runs a command of this program. Raises its UsageError."""
    context = program.make_context(name, list(arguments), parent=parent)
    rest = [*context._protected_args, *context.args] if hasattr(program, "resolve_command") else []
    if rest:
        name, command, rest = program.resolve_command(context, rest)
        parse(command, rest, name, context)
