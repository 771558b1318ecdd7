"""Result files that others published, read, checked and turned into records of a board.

Nothing is taken on trust that can be computed again: letters are read from the texts again, marks and accuracies from
the letters, and whatever a file says of a question has to agree with ours. Imports no torch.
"""
