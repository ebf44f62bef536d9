"""One file per model family: the forward pass in plain Python over kernel handles."""
