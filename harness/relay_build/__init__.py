"""The relay pair: a world of two hops, each known to one model, and the models and the fuser that are taught it."""
