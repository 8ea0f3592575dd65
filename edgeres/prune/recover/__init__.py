"""The accuracy of a pruned network back: losses, where the training starts, the stage."""
