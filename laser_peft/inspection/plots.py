"""Pictures of what is inside a recommender; needs matplotlib."""

from pathlib import Path
from typing import Any

from .attention import HistoryView
from .experts import ExpertLoad

LONGEST_TITLE = 32  # characters


def plot(file: Path, *, load: ExpertLoad | None = None, view: HistoryView | None = None) -> None:
    """Draws the load of the experts and the attention over a history, what there is of both.

    Args:
        file: a new picture; its ending says the format.
        load: of the experts.
        view: of a history.

    Raises:
        ImportError: if matplotlib is missing.
        ValueError: if there is nothing to draw.
    """
    shows_attention = view is not None and view.attention is not None
    if load is None and not shows_attention:
        raise ValueError(
            "there is nothing to draw: a plot shows the experts' load over a log's users, the "
            "attention over a history, or both"
        )
    figure = figure_class()(figsize=(10, 4.5 if load is None or not shows_attention else 8))
    axes = figure.subplots((load is not None) + shows_attention, 1, squeeze=False)[:, 0].tolist()
    if load is not None:
        _draw_load(axes.pop(0), load)
    if view is not None and shows_attention:
        _draw_attention(figure, axes.pop(0), view)
    figure.tight_layout()
    figure.savefig(file, dpi=150)


def figure_class() -> Any:
    """Returns what plots are drawn on.

    Raises:
        ImportError: if matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure  # without pyplot: no window, no global state
    except ImportError as error:
        raise ImportError(
            "plots need matplotlib: pip install 'laser-peft[plots]' (or pip install matplotlib)"
        ) from error
    return Figure


def _draw_load(axes: Any, load: ExpertLoad) -> None:
    places = range(len(load.chosen))
    axes.bar(places, load.chosen, color=["C3" if place in load.dead else "C0" for place in places])
    axes.axhline(sum(load.chosen) / len(load.chosen), color="grey", linestyle="--", linewidth=1)
    axes.set(
        title=f"Experts of {load.users:,} users (dashed: equal load)",
        xlabel="expert",
        ylabel="share of users",
        xticks=list(places),
    )


def _draw_attention(figure: Any, axes: Any, view: HistoryView) -> None:
    assert view.attention is not None
    image = axes.imshow(view.attention.numpy(), aspect="auto", cmap="viridis", vmin=0)
    labels = ["(nothing)", *(title[:LONGEST_TITLE] for title in view.titles)]
    # Titles are no formulas: a dollar sign would start one.
    labels = [label.replace("$", r"\$") for label in labels]
    axes.set_xticks(range(len(labels)), labels, rotation=40, ha="right", fontsize=7)
    axes.set(title="What the queries attend to, oldest item first", ylabel="query")
    figure.colorbar(image, ax=axes, label="weight")
