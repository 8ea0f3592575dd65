"""Layers fitted by least squares to what another network computes, on few images and without labels.

ridge     one layer, aware of a ReLU behind it
folded    a residual module as layers that can be given other weights
repairs   what a search or a study puts behind every gap: the next module, refitted
"""

REPAIRED_ON = 250  # images that make repairs: more gain nothing that a comparison of sets would show
FEWEST_REPAIRED_ON = 50
