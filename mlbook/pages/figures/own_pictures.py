"""Pictures that a reader brings, as a sheet to look at."""

from __future__ import annotations

from mlbook.data.pools import ClassPool
from mlbook.pages.figures.style import figure


def classes(pool: ClassPool, *, classes: int = 6, examples: int = 6):
    """The first pictures of the first classes of a pool, a row for each class; (figure, alt text)."""
    rows, columns = min(classes, len(pool.images)), min(examples, pool.fewest[0])
    fig, axes = figure(rows, columns, width=0.9 * columns + 1.2, height=0.95 * rows, squeeze=False)
    for row, name in enumerate(pool.names[:rows]):
        for column in range(columns):
            ax, image = axes[row, column], pool.images[row, column].permute(1, 2, 0)
            ax.imshow(image.squeeze(-1), cmap="gray", vmin=0, vmax=255)
            ax.set(xticks=[], yticks=[])
            ax.grid(False)
        axes[row, 0].set_ylabel(name, rotation=0, ha="right", va="center")
    shown = ", ".join(pool.names[:rows])
    return fig, f"{columns} pictures of each of {rows} classes of the meta-{pool.split} split: {shown}."
