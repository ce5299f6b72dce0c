"""Measure how well models retrieve, beside BM25, on one set or several: one table, also as Markdown, CSV and LaTeX.

python eval.py model.path=outputs/latest/model data.eval_dir=DIR
python eval.py model.path=A 'compare=[B,C]' data.dev_file=rows.jsonl
python eval.py model.path=A 'compare=[B,C]' data.eval_dir=X 'data.keep_dir=[Y,Z]'
"""

from e5ft.app.runs.script import run

if __name__ == "__main__":
    run("eval")
