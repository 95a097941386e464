"""The colours of every picture and plot, for eyes that do not tell red from green (Okabe and Ito, 2008)."""

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000"]

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
