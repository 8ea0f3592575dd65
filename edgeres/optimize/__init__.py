"""From a network and a budget to three networks: candidates over modules and precision together, measured."""
