"""Times the channels at the shapes of a pair, beside the floor that the machine itself sets."""
