"""One way of training data-parallel each: four verbs around a model."""
