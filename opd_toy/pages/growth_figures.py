"""The still figure of chapter 8: how the losses' cost grows, from its record."""

from opd_toy.records.provenance import recorded

COLUMNS = {"tokens": "tokens", "vocabulary": "vocabulary V", "width": "width"}
COSTS = {"seconds": ("time, ms", 1e-3), "extra_bytes": ("extra memory, MiB", 2**20)}
# line in the record: label, role, dashes
LINES = {
    "textbook": ("textbook, logits", "muted", "-"),
    "ours": ("this book, logits", "reverse_kl", "-"),
    "hidden": ("this book, hidden states", "reverse_kl", (0, (5, 3))),
}


def loss_growth(style):
    """Time and extra memory of a forward and backward pass against each size."""
    import matplotlib.pyplot as plt

    points = recorded("loss-growth", "bench --growth")["points"]
    drawn, panels = plt.subplots(2, 3, figsize=(5, 4.4), sharex="col", sharey="row")
    for row, (cost, (label, unit)) in zip(panels, COSTS.items()):
        for axes, over in zip(row, COLUMNS):
            _panel(axes, [point for point in points if point["over"] == over], cost, unit, style)
        row[0].set_ylabel(label)
    for axes, label in zip(panels[1], COLUMNS.values()):
        axes.set_xlabel(label)
    handles = panels[0][0].lines
    drawn.legend(handles, [line.get_label() for line in handles], loc="outside upper left", ncols=2)
    return drawn


def _panel(axes, points, cost, unit, style):
    """One cost against one size, a line for each loss, on logarithmic axes."""
    for line, (label, role, dashes) in LINES.items():
        here = [point for point in points if point["line"] == line and point[cost]]
        sizes, heights = ([point[name] for point in here] for name in ("value", cost))
        heights = [height / unit for height in heights]
        if here:
            axes.plot(sizes, heights, color=style[role], linestyle=dashes, label=label)
    ends = [min(point["value"] for point in points), max(point["value"] for point in points)]
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(ends, [_short(end) for end in ends])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.tick_params(length=0)
    axes.grid(visible=False, axis="x")


def _short(size):
    return f"{size >> 10}k" if size >= 1 << 15 else str(size)


FIGURES = {
    "loss-growth": {
        "draw": loss_growth,
        "alt": (
            "Six panels on logarithmic axes: time above, extra memory below, against tokens, "
            "vocabulary and width. From logits both costs rise with tokens and with the "
            "vocabulary, and in memory the textbook's line lies above the book's. From hidden "
            "states the extra memory grows less with tokens than from logits."
        ),
    },
}
