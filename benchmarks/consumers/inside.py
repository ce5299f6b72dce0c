"""What runs in another library's environment: some code and its texts in, vectors out. It imports nothing of the project.

python inside.py JOB.json RESULT.json
"""

import json
import sys
from importlib.metadata import version


def main(job: str, result: str) -> None:
    """Run the code of a job and write its vectors, and the versions of the packages that are asked for."""
    with open(job, encoding="utf-8") as file:
        asked = json.load(file)
    names = {"queries": asked["queries"], "passages": asked["passages"]}
    exec(compile(asked["code"], "<the card's code>", "exec"), names)
    vectors = {name: [[float(x) for x in vector] for vector in names[name]] for name in ("query_vectors", "passage_vectors")}
    versions = {name: version(name) for name in asked["packages"]}
    with open(result, "w", encoding="utf-8") as file:
        json.dump({**vectors, "versions": versions}, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
