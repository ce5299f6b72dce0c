"""Ask osv.dev for known vulnerabilities of what the given lock files pin; `make audit-deps` runs it.

Exit code: 0 none known, 1 some, 2 the service did not answer and nothing was audited.
"""

import json
import subprocess
import sys
from pathlib import Path

PIP_AUDIT = [str(Path(sys.executable).with_name("pip-audit")), "--vulnerability-service", "osv", "--format", "json"]
PIP_AUDIT += ["--no-deps", "--disable-pip", "--progress-spinner", "off"]


class NotAudited(Exception):
    """pip-audit gave no result for a file."""


def audited(file: str, command: list[str]) -> list[dict]:
    """What pip-audit says of every package of one lock file.

    Raises:
        NotAudited: it did not get so far, which it tells by a traceback where there is no network.
    """
    done = subprocess.run([*command, "-r", file], capture_output=True, text=True)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        packages = []
    if not packages:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise NotAudited(f"{file}: nothing was audited, osv.dev did not answer: {reason[:200]}")
    return packages


def main(files: list[str], command: list[str] = PIP_AUDIT) -> int:
    """Audit the files, and print one line a vulnerability, or the one line that says why there is no answer."""
    try:
        packages = [package for file in files for package in audited(file, command)]
    except NotAudited as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    skipped = sorted({package["name"] for package in packages if "skip_reason" in package})
    found = [(package, fault) for package in packages for fault in package.get("vulns", ())]
    for package, fault in found:
        fixed = ", ".join(fault["fix_versions"]) or "no version yet"
        print(f"{package['name']} {package['version']}: {', '.join([fault['id'], *fault['aliases']])}; fixed in {fixed}")
    print(f"{len(packages)} packages, {len(found)} known vulnerabilities")
    if skipped:
        print(f"not audited: {', '.join(skipped)}")
    return 1 if found or skipped else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
