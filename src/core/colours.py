"""The colours of every picture and plot, for eyes that do not tell red from green (Okabe and Ito, 2008)."""

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000"]

# What a colour means in all pictures of a run.
TRAIN, VALIDATION, MODEL, WRONG = COLOURS[:4]  # training and validation data, what a model says, its mistakes
TRUTH = COLOURS[7]  # what the data are made by
RIGHT, OTHER = "#595959", "#CFCFCF"  # what a model gets right, what is neither right nor wrong
# The classes' own; the last eight are Paul Tol's ("muted", 2021).
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
# Twelve to tell many lines apart, the first ones best. They were searched for so that the nearest two lie as far apart
# as possible in OKLab, also as seen without red, green or blue cones (Machado et al., 2009), with a contrast to the
# page of 3:1 or more. A line has the same place in both.
TWELVE_ON_LIGHT = [
    *("#0072B2", "#D55E00", "#7B0007", "#2400BF", "#64047E", "#8D76FF"),
    *("#805A46", "#7902F4", "#B784B3", "#3A3848", "#05A76B", "#AC2D85"),
]
TWELVE_ON_DARK = [
    *("#56B4E9", "#F08A4B", "#FBE9C5", "#4078C5", "#F30010", "#A3BC9C"),
    *("#BFFF6E", "#C06C94", "#737C4D", "#B862FF", "#0DF1FE", "#EAC100"),
]


def choose_class_colour(number: int) -> str:
    """Return the colour of a class, numbered from 0; after ten classes they come again."""
    return CLASSES[number % len(CLASSES)]


def choose_ink(*colour: float) -> str:
    """Return black or white, whichever has the higher contrast with a colour: RGB in [0, 1] (WCAG 2.1)."""
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour)
    return "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 else "white"
