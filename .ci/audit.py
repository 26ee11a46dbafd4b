"""`make audit`: does any pinned package have a known vulnerability?

pip-audit also says "no known vulnerabilities" of packages that the service did not tell it about. Here those count.
Exit code 0 only if the service answered about every package and knows of nothing, 1 if it knows of something, else 2.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PINNED = Path(__file__).parents[1] / "constraints.txt"


def report(pinned: Path) -> list[dict[str, Any]] | None:
    """What pip-audit found, one entry per package; None if the service cannot be reached."""
    options = ("--no-deps", "--disable-pip", "--progress-spinner", "off", "--timeout", "15", "--format", "json")
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "audit.json"
        command = [sys.executable, "-m", "pip_audit", "--requirement", pinned, *options, "--output", found]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if found.is_file():
            return list(json.loads(found.read_text())["dependencies"])
    sys.stderr.write("".join(f"{line}\n" for line in done.stderr.splitlines()[-3:]))
    return None


def judge(packages: list[dict[str, Any]] | None) -> tuple[int, list[str]]:
    """Exit code and lines to print."""
    if packages is None:
        return 2, ["the service that knows of vulnerabilities cannot be reached: NOTHING was audited"]
    lines = [
        f"{each['name']} {each['version']}: {known['id']}, fixed in {', '.join(known['fix_versions']) or 'no version'}"
        for each in packages
        for known in each.get("vulns", ())
    ]
    skipped = [each["name"] for each in packages if "skip_reason" in each]
    vulnerable = bool(lines)
    if skipped:
        named = ", ".join(skipped[:5]) + (", …" if len(skipped) > 5 else "")
        lines.append(f"the service did not answer about {len(skipped)} of {len(packages)} packages: {named}")
    if not vulnerable and not skipped:
        lines.append(f"{len(packages)} packages, no known vulnerability")
    return 1 if vulnerable else 2 if skipped or not packages else 0, lines


if __name__ == "__main__":
    code, said = judge(report(Path(sys.argv[1]) if len(sys.argv) > 1 else PINNED))
    print(*said, sep="\n")
    sys.exit(code)
