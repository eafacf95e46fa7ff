"""Plots a record of `llama_infer --benchmark --json`: speed and score memory, flash against standard.

usage: plot_benchmark.py RECORD.json PLOT.svg
"""

import json
import sys

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "kuiper"  # the same record gives the same file
import matplotlib.pyplot as plt

COLOURS = {"decode": "#2b6cb0", "prefill": "#c05621"}


def bars(axes, rows, value, label):
    """Draws one group of bars per sequence length, one bar per phase."""
    lengths = sorted({row["seq_len"] for row in rows})
    for shift, phase in enumerate(COLOURS):
        found = {row["seq_len"]: value(row) for row in rows if row["phase"] == phase}
        places = [i + (shift - 0.5) * 0.38 for i, n in enumerate(lengths) if n in found]
        heights = [found[n] for n in lengths if n in found]
        drawn = axes.bar(places, heights, 0.36, color=COLOURS[phase], label=phase)
        axes.bar_label(drawn, [label(height) for height in heights], fontsize=8)
    axes.set_xticks(range(len(lengths)), lengths)
    axes.set_xlabel("sequence length")
    axes.spines[["top", "right"]].set_visible(False)


def main(record_path, plot_path):
    with open(record_path) as file:
        record = json.load(file)
    rows = [row for row in record["rows"] if row["standard"]]
    figure, (speed, memory) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")

    bars(speed, rows, lambda row: row["speedup"], lambda x: f"{x:.1f}x")
    speed.axhline(1, color="grey", linewidth=0.8)
    speed.set_title("speed of flash over standard MHA", fontsize=10)
    speed.legend(frameon=False, fontsize=9)

    def saved(row):
        sizes = (row[kind]["peak_score_bytes"] for kind in ("flash", "standard"))
        flash, standard = sizes
        return 100 * (1 - flash / standard) if standard else 0

    bars(memory, rows, saved, lambda x: f"{x:.0f}%")
    memory.set_title("score memory saved (measured)", fontsize=10)
    memory.set_ylabel("%")

    shape = f"{record['heads']}/{record['kv_heads']}/{record['head_dim']}"
    figure.suptitle(f"{record['processor']}, {record['threads']} threads, fp32, {shape}", fontsize=9)
    figure.savefig(plot_path, metadata={"Date": None})


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
