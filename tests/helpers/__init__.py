"""What the tests of the engine share; builds everything offline."""
