"""Write any checkpoint as a sentence-transformers folder, checked by encoding again.

python export.py model.path=outputs/latest/checkpoint-100 output_dir=my-model
python export.py model.path=outputs/latest/model output_dir=my-model push=me/my-model
python export.py model.path=outputs/latest/model merge.base=DIR merge.alpha=0.5 output_dir=merged
python export.py model.path=outputs/latest/model trim.texts=corpus.jsonl output_dir=trimmed
python export.py model.path=outputs/a merge.models=[outputs/b,outputs/c] output_dir=soup
"""

from e5ft.app.runs.script import run

if __name__ == "__main__":
    run("export")
