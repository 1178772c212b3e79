"""Shared style of the displays: colours, and axes with text sized for a column."""

# Okabe and Ito (2008), told apart by people with any colour vision; yellow left out,
# which is too light on white. Markers differ too.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")

COLUMN, PAGE = 3.5, 7.16  # inches: one and two columns of most journals
TEXT, SMALL = 8, 7  # points
LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601


def one_axes(ax, height, width=COLUMN):
    """Return the axes to draw on, and the size of their text in points.

    Axes passed by the caller keep their sizes: the size is then None, for which
    matplotlib uses its default. rcParams are read but never written.
    """
    import matplotlib.pyplot as plt

    if ax is not None:
        return ax, None
    _, ax = plt.subplots(figsize=(width, height), layout="constrained")
    dress(ax)
    return ax, TEXT


def dress(ax):
    """Set text sizes for one column on new axes, later ticks included."""
    ax.tick_params(labelsize=SMALL, width=0.6, length=2.5)
    ax.spines[:].set_linewidth(0.6)
    # A fixed number of ticks: where it follows the size of the axes, layout that gives
    # them another size changes labels that it made room for, and they are cut off.
    ax.locator_params(nbins=6)
    for axis in (ax.xaxis, ax.yaxis):
        axis.label.set_size(TEXT)
        axis.get_offset_text().set_size(SMALL)


def tidy(ax):
    """A light grid behind the data, and no frame."""
    ax.grid(alpha=0.25, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def legend_of(ax, size, handles, ncols=3):
    """Legend above new axes, where it hides nothing; inside the caller's own axes."""
    if size is None:
        return ax.legend(handles=handles)
    return ax.figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=min(ncols, len(handles)),
        fontsize=SMALL,
        frameon=False,
        handletextpad=0.4,
        columnspacing=1.2,
    )


def colorbar_of(mappable, ax, size, label, **options):
    """Colour bar beside the axes with a label and few ticks."""
    bar = ax.figure.colorbar(mappable, ax=ax, **options)
    bar.set_label(label, fontsize=size)
    bar.outline.set_linewidth(0.6)
    if size is not None:
        bar.ax.tick_params(labelsize=SMALL, width=0.6, length=2.5)
    return bar


def title(ax, words, size):
    """Title in the size of the other text; axes passed by the caller keep their own."""
    if size is None:
        ax.set_title(words)
    else:
        ax.set_title(words, fontsize=size, pad=3)


def small(size):
    """Size of text smaller than a label; None stays None."""
    return None if size is None else SMALL
