"""A parameter server: what travels, who keeps which weights, and who may go on when."""
