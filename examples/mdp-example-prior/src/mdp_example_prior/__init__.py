"""A prior for mdp: what no colour of the border explains."""
