"""The colours of all figures, chosen to be distinguishable with colour blindness (Okabe and Ito, 2008)."""

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000"]

# The meanings of colours in all figures of a run.
TRAIN, VALIDATION, MODEL, INCORRECT = COLOURS[:4]  # training data, validation data, a model's output, wrong predictions
TRUTH = COLOURS[7]  # the function that generates the data
CORRECT, OTHER = "#595959", "#CFCFCF"  # correct predictions; what is neither right nor wrong
# The classes' colours; the last eight are Paul Tol's ("muted", 2021).
CLASSES = [
    COLOURS[5],
    COLOURS[4],
    "#882255",
    "#332288",
    "#117733",
    "#999933",
    "#44AA99",
    "#CC6677",
    "#AA4499",
    "#DDCC77",
]
# Twelve colours for many lines; the first ones are the easiest to distinguish. A search maximised the distance between
# the nearest two in OKLab, also as seen without red, green or blue cones (Machado et al., 2009), with a contrast to the
# page of 3:1 or more. A line has the same index in both lists.
LINES_ON_LIGHT = [
    *("#0072B2", "#D55E00", "#7B0007", "#2400BF", "#64047E", "#8D76FF"),
    *("#805A46", "#7902F4", "#B784B3", "#3A3848", "#05A76B", "#AC2D85"),
]
LINES_ON_DARK = [
    *("#56B4E9", "#F08A4B", "#FBE9C5", "#4078C5", "#F30010", "#A3BC9C"),
    *("#BFFF6E", "#C06C94", "#737C4D", "#B862FF", "#0DF1FE", "#EAC100"),
]


def choose_class_colour(index: int) -> str:
    """Return the colour of the class with an index from 0; after ten classes the colours repeat."""
    return CLASSES[index % len(CLASSES)]


def make_palette() -> list[tuple[int, int, int]]:
    """Return the colour of each of 256 numbers of a mask, from 0 to 255: grey for class 0, white for no class (255)."""
    colours = [OTHER, *(choose_class_colour(index) for index in range(254)), "#FFFFFF"]
    return [(int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)) for text in colours]


def choose_contrast_colour(*colour: float) -> str:
    """Return "black" or "white", whichever has the higher contrast with a colour: RGB in [0, 1] (WCAG 2.1)."""
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour)
    return "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 else "white"
