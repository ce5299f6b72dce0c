"""Measure how well a model retrieves, beside BM25 and, if asked, another model.

python eval.py model.path=outputs/latest/model data.eval_dir=DIR
python eval.py model.path=A compare=B data.dev_file=rows.jsonl
"""

from e5ft.app.runs.script import run

if __name__ == "__main__":
    run("eval")
