"""How good a model is: accuracy of any Runner on any data set, and what each module contributes."""
