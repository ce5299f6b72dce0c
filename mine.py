"""Find hard negatives for rows, and leave out those that may be answers.

python mine.py model.path=outputs/latest/model data.train_file=mine.jsonl     then train.py on the file that it names
python mine.py data.train_file=mine.jsonl sources=[bm25]                      without a model
torchrun --nproc_per_node 4 mine.py name=NAME model=e5_small data.train_file=mine.jsonl
"""

from e5ft.app.runs.script import run

if __name__ == "__main__":
    run("mine")
