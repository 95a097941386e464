"""The colours of every picture and plot, for eyes that do not tell red from green (Okabe and Ito, 2008)."""

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000"]
