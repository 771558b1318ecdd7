"""Result files that others published, read, checked and turned into records of a board.

What can be computed again is never taken on trust: letters are read from the texts again, marks and accuracies from the
letters, and everything that a file says of a question has to agree with the benchmark. Imports no torch.
"""
