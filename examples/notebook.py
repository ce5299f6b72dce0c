"""The notebook's source: `python docs/make_notebook.py` runs it and writes docs/notebook.ipynb, with what it printed.

`# %%` begins a cell, `# %% [markdown]` a text; `# %% verb=NAME` is left out while there is no such command. A line
`shell("...")` is a line `!...` of the notebook; `# !...` is one that is not run here. It works in the current folder.
"""

# %% [markdown]
# # e5ft in one notebook
# From your rows to a model whose gain you know: rows in three formats, training, reading what came of it, trying
# queries, export and check. Everything below ran on two CPU cores within two minutes, on a random mini model and the
# shipped sample, **so the scores are poor on purpose**: with `MODEL = "e5_small"` (a GPU runtime, or patience) the same
# cells train multilingual-E5.

# %% [markdown]
# ## Install
# In Colab: upload a clone of the repository as `e5ft/`, and run this once.

# %%
# !pip install -q ./e5ft

# %%
import json
import subprocess
from pathlib import Path

MODEL = "mini"


def shell(command: str) -> None:
    """Run a command line and print what it prints."""
    done = subprocess.run(command, shell=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout, end="")
    assert done.returncode == 0, command


# %% [markdown]
# ## Your own rows
# A row is a query and a document that answers it, at best with documents that do not. Columns are found by their names;
# what is not sure is refused with what to type. Here the shipped sample is written in three formats: an Excel-like
# export, triplets of sentence-transformers, and FlagEmbedding's lists.

# %%
import csv
import shutil

from e5ft.app.settings.build import shipped

sample = Path(shipped("data/sample/train.jsonl")).read_text(encoding="utf-8").splitlines()
sample = [json.loads(line) for line in sample[:600]]

with open("faq.csv", "w", encoding="utf-8-sig", newline="") as file:
    csv.writer(file).writerows([("질문", "답변"), *((row["query"], row["document"]) for row in sample)])
with open("triplets.jsonl", "w", encoding="utf-8") as file:
    for row in sample:
        triplet = {"anchor": row["query"], "positive": row["document"], "negative": row["hard_negative"]}
        file.write(json.dumps(triplet, ensure_ascii=False) + "\n")
with open("lists.jsonl", "w", encoding="utf-8") as file:
    for row in sample:
        lists = {"query": row["query"], "pos": [row["document"]], "neg": [row["hard_negative"]]}
        file.write(json.dumps(lists, ensure_ascii=False) + "\n")

# %%
from e5ft.data.rows import read_rows

for name in ("faq.csv", "triplets.jsonl", "lists.jsonl"):
    notes = []
    rows = [row for _, row in read_rows(name, notes=notes)]
    print(f"{name}: {len(rows)} rows; {dict(notes)['columns']}")

# %% verb=audit
# Is the data any good? Duplicates, wrong negatives, texts that are cut off, rows that teach nothing; audit.html has examples.
shell("python -m e5ft audit data.train_file=triplets.jsonl")

# %% [markdown]
# ## Train
# One command: it says what it found, trains, keeps the checkpoint that retrieves best, and measures before, after and
# BM25 over the same queries. `data.eval_dir=DIR` are your own test questions; here those of the
# shipped sample; without any a tenth of the rows is set apart. `doctor=true` shows the first lines alone. One
# epoch, so that it is quick; leave `training.num_train_epochs` out on rows of your own.

# %%
shutil.copytree(shipped("data/sample/eval"), "sample/eval")
FILES = "data.train_file=triplets.jsonl data.eval_dir=sample/eval"

# %%
shell(f"python -m e5ft train name=first model={MODEL} {FILES} training.num_train_epochs=1 tracking=off")

# %% [markdown]
# ## Read the result
# The last line is the verdict. BETTER and WORSE are said only where the paired 95 % interval lies wholly on one side of
# 0, at least 30 test queries were asked, and these queries chose nothing. Better than before is not yet good: compare
# the row `after` with BM25's, which needs no model at all.
# `summary.json` has the same for scripts.

# %%
summary = json.loads(Path("outputs/first/summary.json").read_text(encoding="utf-8"))
verdict = summary["verdict"]
print(verdict["word"], verdict["metric"], [round(verdict[name], 3) for name in ("mean", "low", "high")], verdict["reason"])
for line in Path("outputs/first/metrics.jsonl").read_text(encoding="utf-8").splitlines():
    entry = json.loads(line)
    if "eval_ndcg@10" in entry:
        print(f"step {entry['step']}: nDCG@10 {entry['eval_ndcg@10']:.3f}")

# %% verb=report
# The same as a page with curves and the queries won and lost; open it in a browser.
print(Path("outputs/first/report.html").stat().st_size // 1000, "kB")

# %% [markdown]
# ## Try queries
# Prefixes and Unicode form are stored with the model and added by `encode`. `python -m e5ft serve model.path=outputs/first`
# opens a page that shows base, model and BM25 side by side.

# %%
from e5ft.modeling.loading import load_encoder
from e5ft.modeling.settings import ModelSource

encoder = load_encoder(ModelSource(path="outputs/first/model"))
documents = sorted({row["document"] for row in sample})
passages = encoder.encode(documents, "passage")
for query in ("커피숍과 커피숖 가운데 무엇이 맞나요?", "띄어쓰기를 어떻게 하나요?"):
    scores = passages @ encoder.encode([query], "query")[0]
    print(query)
    for place in scores.argsort()[::-1][:3]:
        print(f"  {scores[place]:.3f}  {documents[place][:50]}")

# %% [markdown]
# ## Export and check
# The folder loads in sentence-transformers, transformers and what builds on them; `check` holds a folder or a running
# server against the vectors that the model gave here.

# %%
shell("python -m e5ft export model.path=outputs/first output_dir=my-model")

# %%
shell("python -m e5ft check target=my-model")

# %% [markdown]
# ## Next
# Your own test questions (`data.eval_dir=DIR`), hard negatives (`python -m e5ft mine`), several seeds
# (`python -m e5ft train -m seed=1,2,3`), and sets that must not get worse (`data.keep_dir=[DIR]`). Every command has
# `--help`; every setting is in docs/configuration.md.
