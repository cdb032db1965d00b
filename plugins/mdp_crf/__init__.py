"""Mean-field inference in dense CRFs over pixels, a library that plugins share."""
