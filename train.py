"""Fine-tune an embedder and show whether it retrieves better.

python train.py                                             offline: the mini model on the shipped sample
python train.py model=e5_small data.train_file=mine.jsonl   the real one on your rows
python train.py -m loss.temperature=0.01,0.02,0.05          a sweep
"""

from e5ft.app.runs.script import run

if __name__ == "__main__":
    run("train")
