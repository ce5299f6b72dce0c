"""`python -m e5ft VERB ...`, installed as `e5ft VERB ...`: the scripts of a clone, `check`, `serve`, `rows` and `split`, from anywhere."""

import sys


def main() -> None:
    """Run the verb that the command line begins with; what follows it are the script's own arguments."""
    from e5ft.app.runs.script import COMMANDS, run
    from e5ft.app.settings.build import purpose

    verb = sys.argv[1] if len(sys.argv) > 1 else None
    if verb not in COMMANDS:
        asked = verb in ("-h", "--help")
        usage = f"usage: e5ft {'|'.join(COMMANDS)} [FIELD=VALUE ...]"
        verbs = [f"  {verb:<8}{purpose(verb)}" for verb in COMMANDS]
        lines = [usage, "", *verbs, "", "e5ft VERB --help: the settings one needs, and examples; in a clone: python -m e5ft VERB"]
        print("\n".join(lines), file=sys.stdout if asked else sys.stderr)
        raise SystemExit(0 if asked else 2)
    sys.argv[:2] = [f"e5ft {verb}"]
    run(verb)


if __name__ == "__main__":
    main()
